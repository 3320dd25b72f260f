#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox>=2025.2"]
# ///
"""Sessions for developers: ``nox`` tests and lints, ``nox -s slow`` runs the long tests, ``nox -l`` lists them all."""

import nox

PYTHONS = ("3.11", "3.12", "3.13")

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "uv|virtualenv"


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests; arguments go to pytest."""
    session.install("-e", ".[test]")
    session.run("pytest", "-n", "auto", "--dist", "loadfile", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Run ruff on the code, zizmor on the workflows, and codespell."""
    session.install("ruff", "codespell", "zizmor")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell")
    session.run("zizmor", "--offline", ".github")


@nox.session
def types(session: nox.Session) -> None:
    """Run mypy."""
    session.install("-e", ".[test]")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the manual; ``nox -s docs -- serve`` shows it while you write."""
    session.install("-e", ".[docs]")
    if session.posargs:
        session.run("mkdocs", *session.posargs)
    else:
        session.run("python", "docs/generate.py", "--check")
        session.run("mkdocs", "build", "--strict")


@nox.session(default=False)
def slow(session: nox.Session) -> None:
    """Run the long versions of the tests."""
    session.install("-e", ".[test]")
    session.run(".ci/slow", external=True)


@nox.session(default=False)
def review(session: nox.Session) -> None:
    """Check the repository's habits with sp-repo-review."""
    session.install("sp-repo-review[cli]")
    session.run("repo-review", ".")


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """Build the wheel and the source distribution."""
    session.install("build")
    session.run("python", "-m", "build")


if __name__ == "__main__":
    nox.main()
