"""Write the dashboards: ``python -m dashboards.build`` (needs Python 3.11 and the dev packages)."""

from __future__ import annotations

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.boards import BOARDS

FOLDER = Path(__file__).with_name("grafana")


def files() -> dict[str, str]:
    """The JSON of each dashboard, by its file's name."""
    made = [of().build() for of in BOARDS]
    return {
        f"{one.uid}.json": json.dumps(one, cls=JSONEncoder, sort_keys=True, indent=2) + "\n"
        for one in made
    }


def main() -> None:
    """Replace what is in the folder."""
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.json"):
        old.unlink()
    for name, text in files().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
