"""The images: built from this checkout and tagged by what is in them, so that only a new one replaces pods."""

from __future__ import annotations

import tomllib
from typing import NamedTuple

from sandbox.shell import ROOT, SandboxError, run, say, works

KAFKA, REDIS, MAIL = "apache/kafka:4.3.1", "redis:8", "axllent/mailpit:latest"
PUBLIC = (KAFKA, REDIS, MAIL)


class Images(NamedTuple):
    """Names with tags. The worker's is the sandbox's unless it is told otherwise."""

    api: str
    sandbox: str
    worker: str


def build() -> Images:
    """Build the API's and the sandbox's image; what is the same as before comes from the engine's cache."""
    say("building the images (the first time this takes some minutes)")
    api, sandbox = (_build_target(target) for target in ("api", "sandbox"))
    return Images(api, sandbox, sandbox)


def build_worker() -> str:
    """Build the plain worker's image, which those of users begin with."""
    return _build_target("worker")


def _build_target(target: str) -> str:
    return _tagged(
        f"nexusq-{target}", "-f", "server/Dockerfile", "--target", target, "--build-arg", f"VERSION={version()}", "."
    )


def build_from(folder: str, name: str, worker: str) -> str:
    """Build the image of a folder's Dockerfile, which begins with one of ours."""
    return _tagged(name, "--build-arg", f"WORKER={worker}", folder)


def _tagged(name: str, *words: str) -> str:
    # Attestations carry the time: the same image would have another id each time.
    run("docker", "build", "--tag", f"{name}:sandbox", *words, env={"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"})
    identity = run("docker", "image", "inspect", "--format", "{{.Id}}", f"{name}:sandbox").strip()
    tagged = f"{name}:{identity.removeprefix('sha256:')[:12]}"
    run("docker", "tag", f"{name}:sandbox", tagged)
    say(f"  {tagged}")
    return tagged


def version() -> str:
    """Give NexusQ's version, as the package says it."""
    path = str(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["version"]["path"])
    for line in (ROOT / path).read_text().splitlines():
        if line.startswith("__version__"):
            return line.split('"')[1]
    raise SandboxError(f"expected {path} to say __version__")


def have(image: str) -> bool:
    """Whether the engine has an image."""
    return works("docker", "image", "inspect", image)


def loader(context: str) -> str | None:
    """Give the program that brings images into a cluster's nodes; None where they have the engine's own.

    Raises
    ------
    SandboxError
        If this kind of cluster has no way for images from here.
    """
    for program in ("kind", "k3d"):
        if context.startswith(f"{program}-"):
            return program
    if context == "minikube":
        return "minikube"
    if context in {"docker-desktop", "orbstack", "rancher-desktop"}:
        return None
    raise SandboxError(
        f"expected --context to be a cluster whose nodes can be given images from here (kind-*, k3d-*, minikube, "
        f"docker-desktop, orbstack, rancher-desktop), got {context!r}. For any other: --registry NAME, a registry that "
        f"you may push to and its nodes may pull from, such as registry.example.com/me"
    )


def load(images: Images, context: str) -> None:
    """Bring the images into a cluster's nodes, in the way that this kind of cluster has for it."""
    program = loader(context)
    if program is None:
        return
    ours = sorted(set(images))
    public = [image for image in PUBLIC if have(image)]  # the others are pulled by the node itself
    cluster = context.removeprefix(f"{program}-")
    say(f"loading images into the nodes of {cluster}")
    if program == "kind":
        run("kind", "load", "docker-image", *ours, "--name", cluster)
        for image in public:
            if not works("kind", "load", "docker-image", image, "--name", cluster):
                say(f"  {image} could not be loaded; the node pulls it")
    elif program == "k3d":
        run("k3d", "image", "import", *ours, *public, "--cluster", cluster)
    else:
        for image in (*ours, *public):
            run("minikube", "image", "load", image)


def push(images: Images, registry: str) -> Images:
    """Push the images to a registry; give the names that they have there."""
    say(f"pushing images to {registry}")
    there = Images(*(f"{registry.rstrip('/')}/{image}" for image in images))
    for image, name in sorted(set(zip(images, there, strict=True))):
        run("docker", "tag", image, name)
        run("docker", "push", name)
        say(f"  {name}")
    return there
