"""The page as the service sends it: its files, its guard, and that they are packed."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

from serve.pages import FILES, FOLDER, GUARD

ROOT = Path(__file__).parents[3]
PACKED = """
from setuptools import Distribution
found = Distribution()
found.parse_config_files()
build = found.get_command_obj("build_py")
build.set_undefined_options("build", ("build_lib", "build_lib"), ("force", "force"))
build.packages, build.package_dir = found.packages, found.package_dir
build.package_data, build.exclude_package_data, build.manifest_files = found.package_data, {}, {}
print(*build.find_data_files("serve", "serve"), sep="\\n")
"""


def test_the_page_asks_nobody_else_and_has_no_inline_code() -> None:
    texts = {name: (FOLDER / name).read_text(encoding="utf-8") for name, _ in FILES.values()}
    assert sorted(texts) == sorted(path.name for path in FOLDER.iterdir()) and len(texts) == 3
    for name, text in texts.items():
        assert "//" not in re.sub(r"(?m)^\s*//.*|[;,] //.*", "", text), f"{name} names another host"
        for markup in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Storage", "cookie"):
            assert markup not in text, (name, markup)
    page = texts["index.html"]
    assert not re.search(r"<style|<script>| style=| on[a-z]+=", page)
    assert set(re.findall(r'(?:src|href)="([^"]+)"', page)) == {
        "data:,",
        "page/style.css",
        "page/script.js",
        "openapi.json",
    }


def test_every_field_has_a_label() -> None:
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    fields = re.findall(r'<(?:textarea|input)[^>]* id="(\w+)"', page)
    assert len(fields) == 4
    for name in fields:
        assert f'<label for="{name}"' in page or re.search(rf'<label[^>]*><input[^>]* id="{name}"', page), name


def test_the_policy_lets_only_the_services_own_script_run() -> None:
    policy = dict(GUARD)[b"content-security-policy"].decode()
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert "unsafe" not in policy


def test_wheels_and_bentos_hold_the_page() -> None:
    done = subprocess.run([sys.executable, "-c", PACKED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = {f"page/{name}" for name, _ in FILES.values()}
    assert names <= {Path(line).relative_to("serve").as_posix() for line in done.stdout.split()}, done.stdout
    options = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
    found = {path for pattern in options["include"] for path in ROOT.glob(pattern)}
    assert {FOLDER / name.removeprefix("page/") for name in names} <= found
