"""From the cells of a study to numbers, tables and figures. The only part that computes with numpy and scipy; loaded by its launchers."""
