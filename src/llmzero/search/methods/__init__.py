"""Search methods: each decides where to grow the tree, on the same driver, runner, ledger and store."""
