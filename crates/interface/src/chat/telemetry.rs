//! The figures of the telemetry pane, computed from reports.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::worker::{Details, Progress};

/// Number of points in the sparkline, and the time that each covers.
const POINTS: usize = 120;
const POINT: Duration = Duration::from_millis(250);
/// Averaging window of the current speed.
const NOW: Duration = Duration::from_millis(1000);

/// The engine's phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    #[default]
    Idle,
    Prefill,
    Decode,
}

/// Figures of the current or last answer, and of the machine.
#[derive(Debug, Default)]
pub(crate) struct Telemetry {
    pub phase: Phase,
    /// Figures of the last report; its text has moved to the transcript.
    pub last: Progress,
    /// Tokens per second over all answers, one value per [`POINT`].
    pub speeds: VecDeque<f32>,
    /// The most recent details.
    pub details: Option<Details>,
    /// Memory bandwidth in bytes per second.
    pub roofline: Option<f64>,
    /// Resident memory of this process in bytes.
    pub rss: Option<u64>,
    /// Milliseconds per token of the answer, ascending.
    sorted_ms: Vec<f32>,
    /// Times of the tokens within [`NOW`], and their sum.
    recent: VecDeque<Duration>,
    recent_sum: Duration,
    since_point: Duration,
    tokens_in_point: u32,
    prefill_began: Option<Instant>,
}

impl Telemetry {
    /// Call this when an answer is requested.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.phase = Phase::Prefill;
        self.last = Progress { cached: self.last.cached, ..Progress::default() };
        self.sorted_ms.clear();
        self.recent.clear();
        self.recent_sum = Duration::ZERO;
        self.since_point = Duration::ZERO;
        self.tokens_in_point = 0;
        self.prefill_began = Some(now);
    }

    /// Applies a report.
    pub(crate) fn update(&mut self, progress: Progress) {
        for time in &progress.token_times {
            self.token(*time);
        }
        if progress.stats.generated > 0 {
            self.phase = Phase::Decode;
        }
        self.details = progress.details.clone().or(self.details.take());
        self.last = progress;
    }

    /// Call this when the answer has ended, or will never begin.
    pub(crate) fn end(&mut self) {
        self.phase = Phase::Idle;
    }

    fn token(&mut self, time: Duration) {
        let ms = time.as_secs_f32() * 1e3;
        let at = self.sorted_ms.partition_point(|x| *x < ms);
        self.sorted_ms.insert(at, ms);
        self.recent.push_back(time);
        self.recent_sum += time;
        while self.recent_sum > NOW && self.recent.len() > 1 {
            self.recent_sum -= self.recent.pop_front().unwrap_or_default();
        }
        self.since_point += time;
        self.tokens_in_point += 1;
        if self.since_point >= POINT {
            self.speeds.push_back(self.tokens_in_point as f32 / self.since_point.as_secs_f32());
            if self.speeds.len() > POINTS {
                self.speeds.pop_front();
            }
            (self.since_point, self.tokens_in_point) = (Duration::ZERO, 0);
        }
    }

    /// Tokens per second over the last second.
    pub(crate) fn speed_now(&self) -> Option<f64> {
        let time = self.recent_sum.as_secs_f64();
        (time > 0.0).then(|| self.recent.len() as f64 / time)
    }

    /// Tokens per second of the answer, after its first token.
    pub(crate) fn speed_mean(&self) -> Option<f64> {
        Some(self.last.stats.decode_tps()).filter(|tps| *tps > 0.0)
    }

    /// Quantile `share` of the milliseconds per token.
    pub(crate) fn percentile(&self, share: f64) -> Option<f32> {
        let last = self.sorted_ms.len().checked_sub(1)?;
        self.sorted_ms.get((share * last as f64).round() as usize).copied()
    }

    /// Bytes read per second by decoding: bytes per token times tokens per second.
    pub(crate) fn traffic(&self) -> Option<f64> {
        Some(self.speed_now()? * self.last.token_bytes as f64)
    }

    /// Estimated time for the rest of the prompt.
    pub(crate) fn prefill_left(&self, now: Instant) -> Option<Duration> {
        let (done, total) = self.last.prefill;
        let began = self.prefill_began.filter(|_| done > 0 && done < total)?;
        Some((now - began).mul_f64((total - done) as f64 / done as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nanoinfer_engine::Stats;

    #[test]
    fn figures_follow_the_reports() {
        let mut t = Telemetry::default();
        let start = Instant::now();
        t.begin(start);
        assert_eq!(t.phase, Phase::Prefill);
        t.update(Progress { prefill: (100, 400), ..Progress::default() });
        let left = t.prefill_left(start + Duration::from_secs(2)).unwrap();
        assert_eq!(left, Duration::from_secs(6));
        let ms = |n: u64| Duration::from_millis(n);
        let times: Vec<_> = (0..200).map(|i| ms(if i % 100 == 50 { 100 } else { 10 })).collect();
        t.update(Progress {
            token_times: times,
            stats: Stats { generated: 201, decode: ms(2180), ..Stats::default() },
            token_bytes: 1_000_000_000,
            prefill: (400, 400),
            ..Progress::default()
        });
        assert_eq!(t.phase, Phase::Decode);
        assert_eq!(t.percentile(0.5), Some(10.0));
        assert_eq!(t.percentile(1.0), Some(100.0));
        assert!((t.speed_mean().unwrap() - 91.7).abs() < 0.1);
        // The last second includes 91 tokens, one of them slow.
        assert!((t.speed_now().unwrap() - 91.0).abs() < 1.0, "{:?}", t.speed_now());
        assert!((t.traffic().unwrap() / 1e9 - 91.0).abs() < 1.0);
        assert_eq!(t.speeds.len(), 8);
        assert_eq!(t.prefill_left(start), None);
        t.end();
        assert_eq!(t.phase, Phase::Idle);
    }
}
