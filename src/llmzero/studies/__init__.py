"""Many searches: comparisons of methods and transfers of strategies, with statistics, tables and figures."""
