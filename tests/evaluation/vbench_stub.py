"""Speaks the interface of the package vbench 0.1.5 as far as it is used here: a stand-in.

Its ``VBench.evaluate`` writes the same files in the same form. Scores are made up: the length of
the prompt by 100, as a percentage for imaging_quality.
"""

import json
import os


class VBench:
    def __init__(self, device, full_info_dir, output_path):
        self.output_path = output_path
        os.makedirs(output_path, exist_ok=True)  # noqa: PTH103 As the original.

    def evaluate(self, videos_path, name, prompt_list=(), dimension_list=None, mode="", **kwargs):
        assert mode == "custom_input"
        print("the first line\nwhat VBench says")
        if "temporal_style" in dimension_list:
            raise SystemExit(7)
        if "human_action" in dimension_list:
            return
        found = {}
        for dimension in dimension_list:
            percent = 100 if dimension == "imaging_quality" else 1
            videos = [
                {
                    "video_path": f"{videos_path}/{file}",
                    "video_results": percent * len(prompt_list[file]) / 100,
                }
                for file in os.listdir(videos_path)
            ]
            if dimension == "aesthetic_quality":
                videos = videos[1:]
            if dimension == "dynamic_degree":
                videos = [{**one, "video_results": True} for one in videos]
            if dimension == "motion_smoothness":
                videos = [{**one, "video_results": float("nan")} for one in videos]
            found[dimension] = [0.5, videos]
        with open(f"{self.output_path}/{name}_eval_results.json", "w") as stream:  # noqa: PTH123
            json.dump(found, stream)
