"""What is seen of it: the daily rollup, alerts, reports, metrics."""
