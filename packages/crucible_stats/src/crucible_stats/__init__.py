"""Statistics of comparison for Crucible."""

from crucible_stats.independent import IndependentDifference, welch_difference
from crucible_stats.intervals import BootstrapSettings, Interval, bootstrap_interval, mean_interval
from crucible_stats.paired import PairedDifference, paired_difference
from crucible_stats.power import minimum_detectable_effect, required_n, t_test_power
from crucible_stats.proportions import newcombe_difference, proportion_interval
from crucible_stats.signed_rank import SignedRank, signed_rank

__all__ = [
    "BootstrapSettings",
    "IndependentDifference",
    "Interval",
    "PairedDifference",
    "SignedRank",
    "bootstrap_interval",
    "mean_interval",
    "minimum_detectable_effect",
    "newcombe_difference",
    "paired_difference",
    "proportion_interval",
    "required_n",
    "signed_rank",
    "t_test_power",
    "welch_difference",
]
