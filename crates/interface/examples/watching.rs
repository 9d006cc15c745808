//! How much the interface slows the engine: `cargo run --release -p nanoinfer-interface --example
//! watching -- MODEL.nano [COLUMNS ROWS [PAIRS]]`.
//!
//! Frames are written to a pseudo-terminal, which another thread reads as a terminal would.

use std::error::Error;
use std::fs::File;
use std::io::Read;

use nanoinfer_engine::{Engine, EngineOptions, Model, Session};
use nanoinfer_interface::chat::{Pair, watching_costs};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default| args.get(at).map_or(Ok(default), |a| a.parse());
    let model = args.first().ok_or("usage: watching MODEL.nano [COLUMNS ROWS [PAIRS]]")?;
    let columns = number(1, 100)?;
    let rows = number(2, 30)?;
    let pairs = number(3, 60)?;
    let mut session = Session::new(Engine::new(Model::open(model)?, &EngineOptions::default())?)?;
    let costs = watching_costs(&mut session, terminal()?, (columns, rows), usize::from(pairs))?;
    let ratios = sorted(costs.iter().map(|p| p.without / p.with));
    let (low, high) = interval(&ratios);
    let tps = |seconds: fn(&Pair) -> f64| 32.0 / median(&sorted(costs.iter().map(seconds)));
    println!(
        "{columns}x{rows}, {pairs} pairs: {:.1} tokens/s without drawing, {:.1} with; \
         median ratio {:.4}, 95 % interval {low:.4} to {high:.4}",
        tps(|p| p.without),
        tps(|p| p.with),
        median(&ratios),
    );
    Ok(())
}

/// A terminal whose output is read and discarded.
fn terminal() -> Result<File, Box<dyn Error + Send + Sync>> {
    let end = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    grantpt(&end)?;
    unlockpt(&end)?;
    let name = ptsname(&end, Vec::new())?.into_string()?;
    let terminal = File::options().read(true).write(true).open(name)?;
    let mut end = File::from(end);
    std::thread::spawn(move || {
        let mut bytes = [0; 65536];
        while let Ok(1..) = end.read(&mut bytes) {}
    });
    Ok(terminal)
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0
}

/// Distribution-free 95 % confidence interval for the median: ranks from the normal approximation of
/// the binomial distribution.
fn interval(sorted: &[f64]) -> (f64, f64) {
    let n = sorted.len();
    let rank = ((n as f64 - 1.96 * (n as f64).sqrt()) / 2.0).floor().max(1.0) as usize;
    (sorted[rank - 1], sorted[n - rank])
}
