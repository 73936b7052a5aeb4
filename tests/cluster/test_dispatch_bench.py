"""The real pool and its simulation agree on all that does not depend on time."""

from __future__ import annotations

from glc_ray.bench_dispatch import farm_model
from glc_ray.bench_pool import Load, MessageCosts, through_the_pool
from glc_ray.runtime.simulate_farm import simulate_farm


def test_pool_and_simulation_give_out_the_same_windows(ray_cluster: None) -> None:
    """One worker dies in its first window: it had another on its way, and both are given out
    again."""
    load = Load(
        speeds=(0.5, 1.0, 2.0, 1.0),
        latent_frames=145,
        window_s=0.05,
        num_videos=2,
        num_steps=2,
        killed=((0, 0.05),),
    )
    run = through_the_pool(load)
    foreseen = simulate_farm(farm_model(load, MessageCosts(0.0, 0.0), run.restart_s))
    num_tasks = load.num_videos * load.num_steps * len(load.groups)
    assert run.windows == (load.num_videos * load.num_steps,) * len(load.groups)
    assert foreseen.num_tasks == num_tasks
    assert (run.grants, run.restarts) == (num_tasks + 2, 1)
    assert (foreseen.num_grants, foreseen.deaths) == (num_tasks + 2, 1)
