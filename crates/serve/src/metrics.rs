//! Figures for Prometheus, and for health checks.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

/// A gauge of a fraction.
type Fraction = Gauge<f64, AtomicU64>;
/// A label with its value.
type Label = (&'static str, String);

/// The figures of a server.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    responses: Family<Vec<Label>, Counter>,
    /// Open connections.
    pub(crate) connections: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let (responses, connections) = (Family::default(), Gauge::default());
        registry.register(
            "nanoinfer_responses",
            "Responses by route and status",
            Family::clone(&responses),
        );
        registry.register("nanoinfer_connections", "Open connections", connections.clone());
        Self { registry: Mutex::new(registry), responses, connections }
    }

    pub(crate) fn responded(&self, route: &str, status: u16) {
        let labels = vec![("route", route.to_owned()), ("status", status.to_string())];
        self.responses.get_or_create(&labels).inc();
    }

    /// The figures of a model's engine.
    pub(crate) fn engine(&self, model: &str) -> EngineMetrics {
        let mut registry = self.registry.lock().unwrap_or_else(|e| e.into_inner());
        let label = ("model_name".into(), model.to_owned().into());
        EngineMetrics::register(registry.sub_registry_with_label(label))
    }

    /// All figures in the text format.
    pub(crate) fn text(&self) -> String {
        let registry = self.registry.lock().unwrap_or_else(|e| e.into_inner());
        let mut text = String::new();
        // Writing to a string cannot fail.
        encode(&mut text, &registry).unwrap_or_default();
        text
    }
}

/// The figures of an engine.
pub(crate) struct EngineMetrics {
    pub(crate) waiting: Gauge,
    pub(crate) running: Gauge,
    pub(crate) preempted: Gauge,
    pub(crate) rows: Gauge,
    pub(crate) blocks: Gauge,
    pub(crate) free_blocks: Gauge,
    usage: Fraction,
    /// Milliseconds of the last pass.
    pub(crate) pass_ms: Fraction,
    pub(crate) pass: Histogram,
    pub(crate) rows_per_pass: Histogram,
    pub(crate) first_token: Histogram,
    pub(crate) gap: Histogram,
    pub(crate) preemptions: Counter,
    pub(crate) computed: Counter,
    pub(crate) cached: Counter,
    pub(crate) generated: Counter,
    pub(crate) drafted: Counter,
    pub(crate) accepted: Counter,
    pub(crate) cancelled: Counter,
    /// Whether the engine is loaded, and how often it was loaded again.
    pub(crate) loaded: Gauge,
    pub(crate) loads: Counter,
    started: Instant,
    /// When the engine's thread was last seen, in milliseconds after the start.
    seen: AtomicU64,
    /// Time between the last two signs, in milliseconds.
    step: AtomicU64,
    dead: AtomicBool,
}

/// Registers figures by their names, with help.
fn register<M: Metric + Clone>(registry: &mut Registry, figures: &[(&str, &str, &M)]) {
    for &(name, help, figure) in figures {
        registry.register(name, help, figure.clone());
    }
}

impl EngineMetrics {
    fn register(registry: &mut Registry) -> Self {
        let seconds = || {
            Histogram::new([
                0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0,
                30.0, 120.0,
            ])
        };
        let new = Self {
            waiting: Gauge::default(),
            running: Gauge::default(),
            preempted: Gauge::default(),
            rows: Gauge::default(),
            blocks: Gauge::default(),
            free_blocks: Gauge::default(),
            usage: Fraction::default(),
            pass_ms: Fraction::default(),
            pass: seconds(),
            rows_per_pass: Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]),
            first_token: seconds(),
            gap: seconds(),
            preemptions: Counter::default(),
            computed: Counter::default(),
            cached: Counter::default(),
            generated: Counter::default(),
            drafted: Counter::default(),
            accepted: Counter::default(),
            cancelled: Counter::default(),
            loaded: Gauge::default(),
            loads: Counter::default(),
            started: Instant::now(),
            seen: AtomicU64::new(0),
            step: AtomicU64::new(0),
            dead: AtomicBool::new(false),
        };
        register(
            registry,
            &[
                ("nanoinfer_waiting", "Requests that wait for admission", &new.waiting),
                ("nanoinfer_running", "Requests that run", &new.running),
                ("nanoinfer_preempted", "Preempted requests that wait to continue", &new.preempted),
                ("nanoinfer_rows", "Tokens of the current pass", &new.rows),
                ("nanoinfer_blocks", "Blocks of the cache", &new.blocks),
                ("nanoinfer_loaded", "Whether the engine is loaded", &new.loaded),
                ("nanoinfer_free_blocks", "Blocks that no request holds", &new.free_blocks),
                // The names by which routers for vLLM choose a server.
                ("vllm:num_requests_waiting", "Requests that wait for admission", &new.waiting),
                ("vllm:num_requests_running", "Requests that run", &new.running),
            ],
        );
        let help = "Share of the blocks that requests hold";
        register(
            registry,
            &[
                ("vllm:kv_cache_usage_perc", help, &new.usage),
                ("vllm:gpu_cache_usage_perc", help, &new.usage),
            ],
        );
        register(
            registry,
            &[
                ("nanoinfer_pass_seconds", "Time of a pass", &new.pass),
                ("nanoinfer_pass_rows", "Tokens of a pass", &new.rows_per_pass),
                ("nanoinfer_first_token_seconds", "Time to the first token", &new.first_token),
                ("nanoinfer_gap_seconds", "Time between two tokens of an answer", &new.gap),
            ],
        );
        register(
            registry,
            &[
                ("nanoinfer_preemptions", "Preemptions", &new.preemptions),
                ("nanoinfer_prompt_tokens_computed", "Prompt tokens computed", &new.computed),
                ("nanoinfer_prompt_tokens_cached", "Prompt tokens found in the cache", &new.cached),
                ("nanoinfer_tokens_generated", "Tokens generated", &new.generated),
                ("nanoinfer_tokens_drafted", "Tokens drafted", &new.drafted),
                ("nanoinfer_drafts_accepted", "Drafted tokens that were accepted", &new.accepted),
                ("nanoinfer_loads", "Loads after the engine was unloaded", &new.loads),
                ("nanoinfer_cancelled", "Answers whose client went away", &new.cancelled),
            ],
        );
        new
    }

    /// Sets the number of blocks: in total, and not held by a request.
    pub(crate) fn set_blocks(&self, (total, free): (usize, usize)) {
        self.blocks.set(total as i64);
        self.free_blocks.set(free as i64);
        self.usage.set((total - free) as f64 / total.max(1) as f64);
    }

    /// The engine is not loaded.
    pub(crate) fn clear(&self) {
        for gauge in [&self.running, &self.preempted, &self.rows] {
            gauge.set(0);
        }
        self.set_blocks((0, 0));
    }

    /// Records a sign of the engine's thread.
    pub(crate) fn beat(&self) {
        let now = self.started.elapsed().as_millis() as u64;
        let before = self.seen.swap(now, Ordering::Relaxed);
        self.step.store(now.saturating_sub(before), Ordering::Relaxed);
    }

    /// Records that the engine's thread has ended.
    pub(crate) fn die(&self) {
        self.dead.store(true, Ordering::Relaxed);
        self.rows.set(0);
    }

    /// Whether the engine's thread runs, and was seen within `limit`, or twice the time of its last step if that
    /// is more: a pass of a large model on a slow machine can take long.
    pub(crate) fn is_alive(&self, limit: Duration) -> bool {
        let [seen, step] = [&self.seen, &self.step].map(|ms| ms.load(Ordering::Relaxed));
        let silent = self.started.elapsed().saturating_sub(Duration::from_millis(seen));
        !self.dead.load(Ordering::Relaxed) && silent < limit.max(2 * Duration::from_millis(step))
    }
}
