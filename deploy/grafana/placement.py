"""Dashboard: affinity and placement. Queries and how to read them; ``panels`` knows how they are drawn."""

from deploy.grafana.panels import OF_MODEL, ON_WORKER, RATE, Number, Panel, Query, dashboard_of, query

PLACEMENT = dashboard_of(
    "affinity-placement",
    "Affinity: Affinity and placement",
    "Whether jobs meet their models in VRAM, what loading costs, and whether the fleet is thrashing.",
    (
        (
            "Now",
            (
                Number(
                    "Affinity hit ratio",
                    "Jobs that found their model resident, last 5 minutes. The objective is 90 %.",
                    "percentunit",
                    query("affinity:hit_ratio:rate5m"),
                    warn=0.95,
                    bad=0.9,
                ),
                Number(
                    "Load share",
                    "Loading as a share of all the GPUs did, last 5 minutes. Above a half the fleet thrashes.",
                    "percentunit",
                    query("affinity:load_share:rate5m"),
                    warn=0.3,
                    bad=0.5,
                ),
                Number(
                    "Loading saved, last hour",
                    "Each batch that found its model there counts one load of it.",
                    "s",
                    query(f"sum(increase(affinity_saved_seconds_total{{{ON_WORKER},{OF_MODEL}}}[1h]))"),
                ),
                Number(
                    "Loading lost, last hour",
                    "Loads of models that the same GPU had evicted less than 10 minutes before.",
                    "s",
                    query(f"sum(increase(affinity_lost_seconds_total{{{ON_WORKER},{OF_MODEL}}}[1h])) or vector(0)"),
                ),
                Number(
                    "Models nobody can hold",
                    "Jobs wait for them, and each live GPU is too small or has given up.",
                    "short",
                    query(f"sum(max by (model) (model_unplaceable{{{OF_MODEL}}}))"),
                    warn=0.5,
                    bad=1,
                ),
                Number(
                    "Hoarded deliveries",
                    "In a worker's hand with no batch started: jobs that another worker could have had.",
                    "short",
                    query(f"sum(hoarded_deliveries{{{ON_WORKER}}})"),
                    warn=10,
                    bad=100,
                ),
            ),
        ),
        (
            "Affinity",
            (
                Panel(
                    "Starts",
                    "Warm: the model was there. Cold: this job waited for its load.",
                    "ops",
                    query(f"sum by (start) (rate(messages_consumed_total{{{OF_MODEL}}}{RATE}))", "{{start}}"),
                    stacked=True,
                ),
                Panel(
                    "Hit ratio by model",
                    "A model that is low here is evicted between its jobs.",
                    "percentunit",
                    query(f"model:affinity_hit_ratio:rate5m{{{OF_MODEL}}}", "{{model}}"),
                    highest=1,
                ),
                Panel(
                    "Loading saved and lost",
                    "Seconds of loading for each second that passes: saved, and spent on what goes back and forth.",
                    "short",
                    (
                        Query(f"sum(rate(affinity_saved_seconds_total{{{ON_WORKER},{OF_MODEL}}}{RATE}))", "saved"),
                        Query(
                            f"sum(rate(affinity_lost_seconds_total{{{ON_WORKER},{OF_MODEL}}}{RATE})) or vector(0)",
                            "lost",
                        ),
                    ),
                ),
                Panel(
                    "Load share by worker",
                    "One that is high alone has models on it that do not fit together.",
                    "percentunit",
                    query(f"worker:load_share:rate5m{{{ON_WORKER}}}", "{{worker}}"),
                    highest=1,
                ),
            ),
        ),
        (
            "Placement",
            (
                Panel(
                    "Loads",
                    "By reason (a first copy, a further one of a hot model, by hand) and where the weights came from.",
                    "ops",
                    query(
                        f"sum by (reason, tier) (rate(model_loads_total{{{ON_WORKER},{OF_MODEL}}}{RATE}))",
                        "{{reason}} from {{tier}}",
                    ),
                ),
                Panel(
                    "Evictions",
                    "By reason: for room, by hand, for want of memory, or with an executor that died.",
                    "ops",
                    query(
                        f"sum by (reason) (rate(model_evictions_total{{{ON_WORKER},{OF_MODEL}}}{RATE}))", "{{reason}}"
                    ),
                ),
                Panel(
                    "Load time, 95th percentile",
                    "From the decision's start to ready, by model.",
                    "s",
                    query(
                        "histogram_quantile(0.95, sum by (model, le) ("
                        f"rate(model_load_duration_seconds_bucket{{{OF_MODEL}}}[15m])))",
                        "{{model}}",
                    ),
                ),
                Panel(
                    "Claims lost and deliveries handed back",
                    "Both cost a round trip and no work; many of them mean that workers get in each other's way.",
                    "ops",
                    (
                        Query(
                            f"sum by (worker) (rate(load_claims_lost_total{{{ON_WORKER}}}{RATE}))",
                            "{{worker}} claims lost",
                        ),
                        Query(
                            f"sum by (worker) (rate(deliveries_handed_back_total{{{ON_WORKER}}}{RATE}))",
                            "{{worker}} handed back",
                        ),
                    ),
                ),
                Panel(
                    "Holders",
                    "GPUs on which each model is ready or loading.",
                    "short",
                    query(f"max by (model) (model_holders{{{OF_MODEL}}}) > 0", "{{model}}"),
                    stacked=True,
                ),
                Panel(
                    "Work that waits, by model",
                    "GPU time of the queued jobs; batches make it less.",
                    "s",
                    query(f"model:backlog_seconds{{{OF_MODEL}}} > 0", "{{model}}"),
                    stacked=True,
                ),
            ),
        ),
    ),
)
