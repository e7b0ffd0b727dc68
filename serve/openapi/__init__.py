"""The OpenAPI 3.1 document of the service, for the model that is loaded: tables of operations, one for each protocol,
and what makes a document of them.

Schemas of requests are as strict as the code where JSON Schema can say it. It cannot say how many tokens a text has,
that token ids are those of the model's tokenizer, nor that a tensor has as many elements as its shape.
"""

from serve.openapi.document import document

__all__ = ["document"]
