"""One file per benchmark metric: what it asks, how answers are graded, what is computed.

A metric of your own derives from `Metric`; the names below are what it needs.
"""

from mmalign.metrics._seam import Graded as Graded
from mmalign.metrics._seam import Metric as Metric
from mmalign.metrics._seam import Question as Question
from mmalign.metrics._seam import Sums as Sums
from mmalign.metrics._seam import ratio as ratio
