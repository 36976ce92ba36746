"""The command `schema`: the JSON Schema of the manifest or of the image recipe, for editors."""

from __future__ import annotations

import json
from typing import Literal

import cyclopts

app = cyclopts.App(name="schema")


@app.default
def schema(document: Literal["manifest", "recipe"] = "manifest", /) -> None:
    """Print the JSON Schema (2020-12) of a document; needs no controller.

    A manifest that begins with `# yaml-language-server: $schema=manifest.schema.json` is then checked and
    completed in editors.

    ```
    forkbed schema > manifest.schema.json
    forkbed schema recipe > recipe.schema.json
    ```

    Parameters
    ----------
    document
        Of the manifest of a system, or of the recipe of an image.
    """
    # Here, not above: every command pays for what this module imports.
    from forkbed.config.manifest_model import Manifest
    from forkbed.config.recipe import RecipeDocument
    from forkbed.config.schema import MANIFEST_EXAMPLE, RECIPE_EXAMPLE, json_schema

    if document == "manifest":
        made = json_schema(Manifest, "Forkbed manifest", [MANIFEST_EXAMPLE])
    else:
        made = json_schema(RecipeDocument, "Forkbed image recipe", [RECIPE_EXAMPLE])
    print(json.dumps(made, indent=2, ensure_ascii=False))
