"""Runs in an environment that has VBench, as a program: this project does not import it.

VBench's own command joins its arguments to a line for a shell, and needs a GPU; its class does
neither. Reads a request (JSON) from the path in its first argument; VBench writes its result.
"""

import json
import sys


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as stream:  # noqa: PTH123 Older Pythons, too.
        request = json.load(stream)
    import torch  # type: ignore[import-not-found,unused-ignore]
    from vbench import VBench

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # The second argument is a list of VBench's prompts, which this mode does not read.
    VBench(device, "", request["results"]).evaluate(
        videos_path=request["videos"],
        name=request["name"],
        prompt_list=request["prompts"],
        dimension_list=request["dimensions"],
        mode="custom_input",
    )


if __name__ == "__main__":
    main()
