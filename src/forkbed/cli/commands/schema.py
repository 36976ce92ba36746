"""The command `schema`: the JSON Schema of the manifest, the image recipe or the steps of an upgrade, for editors."""

from __future__ import annotations

import json
from typing import Literal

import cyclopts

app = cyclopts.App(name="schema")


@app.default
def schema(document: Literal["manifest", "recipe", "steps"] = "manifest", /) -> None:
    """Print the JSON Schema (2020-12) of a document; needs no controller.

    A manifest that begins with `# yaml-language-server: $schema=manifest.schema.json` is then checked and
    completed in editors.

    ```
    forkbed schema > manifest.schema.json
    forkbed schema recipe > recipe.schema.json
    forkbed schema steps > steps.schema.json
    ```

    Parameters
    ----------
    document
        Of the manifest of a system, of the recipe of an image, or of the steps of an upgrade.
    """
    # Here, not above: every command pays for what this module imports.
    from forkbed.config.manifest_model import Manifest
    from forkbed.config.recipe import RecipeDocument
    from forkbed.config.schema import MANIFEST_EXAMPLE, RECIPE_EXAMPLE, STEPS_EXAMPLE, json_schema
    from forkbed.config.steps_model import StepsDocument

    match document:
        case "manifest":
            made = json_schema(Manifest, "Forkbed manifest", [MANIFEST_EXAMPLE])
        case "recipe":
            made = json_schema(RecipeDocument, "Forkbed image recipe", [RECIPE_EXAMPLE])
        case "steps":
            made = json_schema(StepsDocument, "Forkbed steps of an upgrade", [STEPS_EXAMPLE])
    print(json.dumps(made, indent=2, ensure_ascii=False))
