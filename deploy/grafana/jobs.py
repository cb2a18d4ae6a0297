"""Dashboard: jobs and SLO. Queries and how to read them; ``panels`` knows how they are drawn."""

from deploy.grafana.panels import OF_MODEL, RATE, Number, Panel, Query, Rows, dashboard_of, query

JOBS = dashboard_of(
    "affinity-jobs",
    "Affinity: Jobs and SLO",
    "What comes in, what waits and for how long, what fails, and what is left of the error budgets.",
    (
        (
            "Now",
            (
                Number("Queued jobs", "All that wait.", "short", query("affinity:queue_depth")),
                Number(
                    "Oldest wait",
                    "Of any model. The objective of a cold start is 60 s.",
                    "s",
                    query(f"max(model_oldest_wait_seconds{{{OF_MODEL}}})"),
                    warn=30,
                    bad=60,
                ),
                Number(
                    "Backlog for each GPU",
                    "Seconds until the fleet would be idle if nothing new came.",
                    "s",
                    query("affinity:backlog_seconds"),
                    warn=120,
                    bad=300,
                ),
                Number(
                    "Dead letters",
                    "Jobs that gave up and have not been put back.",
                    "short",
                    query("sum(max by (code) (dead_letters)) or vector(0)"),
                    warn=1,
                    bad=100,
                ),
                Number(
                    "Broker",
                    "1: it answered the last scrape.",
                    "short",
                    query("min(affinity_broker_up)"),
                    warn=1,
                    bad=0.5,
                ),
                Number(
                    "Store",
                    "1: it answered the last scrape.",
                    "short",
                    query("min(affinity_store_up)"),
                    warn=1,
                    bad=0.5,
                ),
            ),
        ),
        (
            "Jobs",
            (
                Panel(
                    "In and out",
                    "Accepted and ended; where the first is above the second for long the backlog grows.",
                    "ops",
                    (
                        Query(f"sum(rate(messages_produced_total{{{OF_MODEL}}}{RATE}))", "accepted"),
                        Query(f"sum(rate(messages_consumed_total{{{OF_MODEL}}}{RATE}))", "ended"),
                        Query(f"sum(rate(jobs_cancelled_total{{{OF_MODEL}}}{RATE}))", "cancelled"),
                    ),
                ),
                Panel(
                    "Queue depth",
                    "Queued jobs by model.",
                    "short",
                    query(f"max by (model) (model_queue_depth{{{OF_MODEL}}}) > 0", "{{model}}"),
                    stacked=True,
                ),
                Panel(
                    "Wait, 95th percentile",
                    "From creation to start, by kind of start.",
                    "s",
                    query(
                        f"histogram_quantile(0.95, sum by (start, le) (rate(job_wait_seconds_bucket{RATE})))",
                        "{{start}}",
                    ),
                ),
                Panel(
                    "Time on the GPU, 95th percentile",
                    "By model; jobs of one batch count each with the whole batch.",
                    "s",
                    query(
                        "histogram_quantile(0.95, sum by (model, le) (rate("
                        f'message_processing_duration_seconds_bucket{{phase="exec",{OF_MODEL}}}{RATE})))',
                        "{{model}}",
                    ),
                ),
                Panel(
                    "Oldest wait by model",
                    "Of the oldest queued job of each model.",
                    "s",
                    query(f"max by (model) (model_oldest_wait_seconds{{{OF_MODEL}}}) > 0", "{{model}}"),
                ),
                Panel(
                    "Fallback queue and dead-letter queue",
                    "The first should be near 0: it is only passed through.",
                    "short",
                    (Query("max(fallback_depth)", "fallback"), Query("max(dead_letter_depth)", "dead letters")),
                ),
            ),
        ),
        (
            "Failures",
            (
                Panel(
                    "Errors of attempts",
                    "By code; attempts that are tried again count as well.",
                    "ops",
                    query(
                        f"sum by (code) (rate(message_processing_errors_total{{{OF_MODEL}}}{RATE}))",
                        "{{code}}",
                    ),
                ),
                Panel(
                    "Failed for good, and tried again",
                    "By code: the first cost a job, the second only time.",
                    "ops",
                    (
                        Query(f"sum by (code) (rate(jobs_failed_total{{{OF_MODEL}}}{RATE}))", "failed: {{code}}"),
                        Query(f"sum by (code) (rate(job_retries_total{{{OF_MODEL}}}{RATE}))", "again: {{code}}"),
                    ),
                ),
                Panel(
                    "Refused",
                    "Jobs that were not accepted, by code.",
                    "ops",
                    query(f"sum by (code) (rate(jobs_refused_total{RATE}))", "{{code}}"),
                ),
                Panel(
                    "Requests by status",
                    "429 is a bound of ours, 503 a server that is away.",
                    "reqps",
                    query(f"sum by (status) (rate(http_request_duration_seconds_count{RATE}))", "{{status}}"),
                    stacked=True,
                ),
            ),
        ),
        (
            "Objectives",
            (
                Panel(
                    "Error ratio, last hour",
                    "By objective; docs/slo.md says what counts and what is allowed.",
                    "percentunit",
                    query("slo:error_ratio:rate1h", "{{slo}}"),
                ),
                Panel(
                    "Error ratio, last three days",
                    "What a month's budget would look like if it went on so.",
                    "percentunit",
                    query("slo:error_ratio:rate3d", "{{slo}}"),
                ),
                Rows(
                    "Alerts that fire",
                    "Each leads to its entry in docs/runbook.md.",
                    "short",
                    query('ALERTS{alertstate="firing"}'),
                    width=24,
                ),
            ),
        ),
    ),
)
