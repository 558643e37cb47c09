"""An analytic model of GRPO training dynamics: what `runner=simulated` runs instead of a trainer. docs/simulator.md explains it."""
