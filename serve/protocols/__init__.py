"""The protocols that the service speaks: functions from the bytes of a request to a question, and from its answer to
bytes. None knows of HTTP's messages, of the model or of another protocol.
"""
