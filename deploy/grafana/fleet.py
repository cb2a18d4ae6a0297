"""Dashboard: fleet and VRAM. Queries and how to read them; ``panels`` knows how they are drawn."""

from deploy.grafana.panels import (
    OF_MODEL,
    ON_GPU,
    ON_WORKER,
    RATE,
    Number,
    Panel,
    Query,
    Rows,
    States,
    dashboard_of,
    query,
)

FLEET = dashboard_of(
    "affinity-fleet",
    "Affinity: Fleet and VRAM",
    "Every GPU: what its memory holds, what its time goes into, and whether its worker is well.",
    (
        (
            "Now",
            (
                Number("GPUs", "Workers whose lease is held.", "short", query("affinity:gpus"), warn=1, bad=0.5),
                Number(
                    "Memory of all GPUs in use",
                    "By whomever, of the total.",
                    "percentunit",
                    query(f"sum(gpu_memory_used_bytes{{{ON_GPU}}}) / sum(gpu_memory_total_bytes{{{ON_GPU}}})"),
                ),
                Number(
                    "Foreign memory",
                    "Held by processes that are not ours; it is lost to models.",
                    "bytes",
                    query(f"sum(gpu_memory_foreign_bytes{{{ON_GPU}}})"),
                    warn=2**30,
                    bad=8 * 2**30,
                ),
                Number(
                    "Not given back",
                    "Held by our executors without a model that accounts for it; should be 0 but for seconds.",
                    "bytes",
                    query(f"sum(gpu_memory_unreturned_bytes{{{ON_GPU}}})"),
                    warn=2**28,
                    bad=2**30,
                ),
                Number(
                    "Workers lost, last hour",
                    "Leases that ran out: each is a process that died or hung.",
                    "short",
                    query("sum(increase(workers_lost_total[1h]))"),
                    warn=0.5,
                    bad=2,
                ),
                Number(
                    "Longest load under way",
                    "Above a minute or two a disk or a hub is in trouble.",
                    "s",
                    query(f"max(gpu_load_age_seconds{{{ON_GPU}}})"),
                    warn=60,
                    bad=300,
                ),
            ),
        ),
        (
            "Residency",
            (
                States(
                    "Residents by GPU",
                    "One line for each model on each GPU; a line that comes and goes is a model that does not fit.",
                    "short",
                    query(
                        f"max by (worker, gpu, model) (model_resident_state{{{ON_GPU},{OF_MODEL}}})",
                        "{{worker}} {{model}}",
                    ),
                ),
            ),
        ),
        (
            "Memory",
            (
                Panel(
                    "Memory by resident",
                    "What each model takes; the top of the stack is what all of them take.",
                    "bytes",
                    query(
                        f"sum by (worker, model) (model_resident_bytes{{{ON_GPU},{OF_MODEL}}})", "{{worker}} {{model}}"
                    ),
                    stacked=True,
                ),
                Panel(
                    "Free memory",
                    "What nobody uses, by the driver's word.",
                    "bytes",
                    query(f"gpu_memory_free_bytes{{{ON_GPU}}}", "{{worker}}"),
                ),
                Panel(
                    "Foreign and not given back",
                    "Both make less room for models; the second one points to a runtime that leaks.",
                    "bytes",
                    (
                        Query(f"gpu_memory_foreign_bytes{{{ON_GPU}}}", "{{worker}} foreign"),
                        Query(f"gpu_memory_unreturned_bytes{{{ON_GPU}}}", "{{worker}} not given back"),
                    ),
                ),
                Panel(
                    "Host memory with weights",
                    "Weights that left VRAM and can be copied back instead of read again.",
                    "bytes",
                    query(f"host_cache_bytes{{{ON_GPU}}}", "{{worker}}"),
                ),
            ),
        ),
        (
            "Time",
            (
                Panel(
                    "What the GPUs' time goes into",
                    "GPUs' worth of running jobs, of loading while nothing runs, and of doing neither.",
                    "short",
                    query(f"sum by (use) (rate(gpu_seconds_total{{{ON_GPU}}}{RATE}))", "{{use}}"),
                    stacked=True,
                ),
                Panel(
                    "Utilization",
                    "As the driver measures it; no line where it cannot say.",
                    "percentunit",
                    query(f"gpu_utilization_ratio{{{ON_GPU}}}", "{{worker}}"),
                    highest=1,
                ),
                Panel(
                    "Event loops, 99th percentile of lateness",
                    "A process that is late here is short of CPU, and its heartbeats are late too.",
                    "s",
                    query(
                        "histogram_quantile(0.99, "
                        f"sum by (job, instance, le) (rate(event_loop_lag_seconds_bucket{RATE})))",
                        "{{job}} {{instance}}",
                    ),
                ),
                Rows(
                    "Workers",
                    "1: the lease is held. 0: it ran out and nobody has tidied up yet.",
                    "short",
                    query(f'max by (worker) (worker_up{{job="affinity-dispatcher",{ON_WORKER}}})'),
                ),
            ),
        ),
    ),
)
