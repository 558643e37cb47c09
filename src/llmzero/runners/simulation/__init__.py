"""An analytic model of GRPO training dynamics, which `runner=simulated` runs in place of a trainer."""
