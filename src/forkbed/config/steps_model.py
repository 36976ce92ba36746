"""What may stand in a file of steps, key by key: its JSON Schema and every message about a single value."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from forkbed.config.fields import (
    ExitStatus,
    FilledText,
    Flag,
    FormatVersion,
    Line,
    Name,
    Seconds,
    Strict,
    refuse,
    text_of,
)
from forkbed.config.manifest_model import Account, File, VariableName

_OF_A_COMMAND = ("user", "environment", "expect")


def _value(written: object) -> str:
    text = text_of(written)
    if "\0" in text:
        raise refuse("it holds a NUL character", "remove it")
    return text


EnvironmentValue = Annotated[
    str, BeforeValidator(_value), WithJsonSchema({"type": ["string", "number", "boolean"]})
]


class PushedFile(File):
    """A file put into the guest before the step's command runs."""

    source: Line | None = Field(None, description="A local file, relative to the file of steps.")


class Step(Strict):
    """One step of an upgrade: files are pushed, then a command runs, or the machine restarts."""

    name: Line | None = Field(None, description="Its name; without one its number and machine: `1-boss`.")
    machine: Name = Field(description="The machine of the system that it runs on.")
    run: FilledText | None = Field(None, description="A shell command, for /bin/sh.")
    script: Line | None = Field(
        None, description="A local program instead of `run`, relative to the file of steps; begins with `#!`."
    )
    push: tuple[PushedFile, ...] = Field((), description="Files put into the guest first.")
    user: Account = Field("root", description="The guest's account that the command runs as.")
    environment: dict[VariableName, EnvironmentValue] = Field(
        {}, description="Environment variables of the command."
    )
    timeout: Seconds = Field(
        600.0,
        description="How long the command, or the way to the next boot, may take.",
        json_schema_extra={"default": "10m"},
    )
    expect: ExitStatus = Field(0, description="The exit status of the command that is right.")
    reboot: Flag = Field(
        False,
        description="Whether the step restarts the machine: its command does, or without one Forkbed does.",
    )

    @model_validator(mode="after")
    def _does_one_thing(self) -> Step:
        if self.run is not None and self.script is not None:
            raise refuse("both `run` and `script`", "write one of them, or two steps")
        if self.run is None and self.script is None:
            if not self.push and not self.reboot:
                raise refuse("it does nothing", "add `run`, `script`, `push` or `reboot: true`")
            idle = [key for key in _OF_A_COMMAND if key in self.model_fields_set]
            if idle:
                raise refuse(
                    f"`{idle[0]}` without a command", f"add `run` or `script`, or remove `{idle[0]}`"
                )
        if self.reboot and "expect" in self.model_fields_set:
            raise refuse("a restart has no exit status", "remove `expect`, or restart in a step of its own")
        return self


def _some(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    if not steps:
        raise refuse("there is no step", "add one, such as `- {machine: web, run: apt-get -y upgrade}`")
    return steps


class StepsDocument(Strict):
    """The steps of an upgrade, in their order."""

    version: FormatVersion = Field(description="Version of this format.")
    steps: Annotated[tuple[Step, ...], AfterValidator(_some)] = Field(
        description="What is done, one after another.", json_schema_extra={"minItems": 1}
    )
