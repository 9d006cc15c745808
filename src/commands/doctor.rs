//! `nanoinfer doctor`: describes this machine, how the engine uses it and why, and what it can run.
//!
//! ```text
//! CPU ─► instruction set ┐
//! affinity, quota ─► threads ┴─► measured limits ─► expected tokens/s of well-known shapes
//! free memory ──────────────────────────────────────► the largest of them that fits
//! ```

mod encodings;
mod findings;
mod print;

use std::process::ExitCode;

use anyhow::Result;
use nanoinfer_engine::{Cores, EngineOptions, Error, Isa, available_memory, buffer_bytes};
use nanoinfer_format::Quant;
use nanoinfer_kernels::Kernels;
use nanoinfer_packer::synthetic::Shape;
use nanoinfer_platform::{cpu, memory};

use crate::args::Doctor;
use crate::limits::Limits;
use crate::model::forced_isa;
use crate::output::print_json;
use findings::{Findings, Fit, IsaChoice, Largest, Machine, Memory, Roofline, Threads};

/// Share of the measured memory bandwidth that decoding reaches. docs/BENCHMARKS.md reports 92 % for
/// the shape of TinyLlama-1.1B; a model that fits into the caches can exceed this share.
const SHARE: f64 = 0.9;
/// Number of measurements of the limits; the median is used.
const ROUNDS: usize = 5;
/// Load average above which measurements become unreliable.
const BUSY: f64 = 0.5;
/// Bytes per parameter of large models in 8 bits, scales included.
const BYTES: f64 = 1.001;
/// Minimum size of a real model in bytes; smaller shapes are for tests.
const MIN_MODEL: u64 = 50_000_000;

pub(crate) fn run(args: Doctor) -> Result<ExitCode> {
    let findings = examine()?;
    if args.json {
        print_json(&findings)?;
    } else {
        print::print(&findings)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn examine() -> Result<Findings> {
    let machine = Machine {
        cpu: cpu::name(),
        architecture: std::env::consts::ARCH,
        system: std::env::consts::OS,
        last_level_cache: cpu::last_level_cache(),
        load: cpu::load(),
    };
    let cores = Cores::available();
    let isa = isa()?;
    let threads = cores.threads();
    let roofline = measure(threads, isa.0)?;
    let kernels = Kernels::new(isa.0).expect("it is available");
    let encodings = encodings::measure(&kernels, threads);
    let memory = Memory { total: memory::total(), available: available_memory() };
    let room = memory.available.unwrap_or(u64::MAX);
    let models = Shape::all().into_iter().filter(|s| s.bytes() > MIN_MODEL);
    let models: Vec<Fit> = models.map(|shape| fit(&shape, room, &roofline)).collect();
    let largest = largest(room, &roofline, &models);
    let advice = advice(isa.0, &cores, &models, machine.load);
    Ok(Findings {
        version: env!("CARGO_PKG_VERSION"),
        machine,
        isa: isa.1,
        threads: Threads {
            used: threads,
            reason: thread_reason(&cores).into(),
            online: cores.online,
            allowed: cores.allowed,
            physical: cores.physical,
            granted: cores.granted,
        },
        memory,
        roofline,
        encodings,
        models,
        largest,
        advice,
    })
}

/// The instruction set that an engine would use.
fn isa() -> Result<(Isa, IsaChoice)> {
    let available: Vec<_> = Isa::ALL.into_iter().filter(|&i| Kernels::new(i).is_some()).collect();
    let (used, reason) = match forced_isa()? {
        Some(isa) if !available.contains(&isa) => Err(Error::Isa { isa: isa.name() })?,
        Some(isa) => (isa, format!("forced by NANOINFER_ISA={}", isa.name())),
        None => (Kernels::best().isa(), "the fastest on this CPU".to_owned()),
    };
    let available = available.into_iter().map(Isa::name).collect();
    Ok((used, IsaChoice { used: used.name(), reason, available }))
}

/// The limit that determines the number of threads.
fn thread_reason(cores: &Cores) -> &'static str {
    if cores.is_limited_by_quota() {
        "the CPU quota of this process's cgroup"
    } else if cores.allowed < cores.online {
        "the physical cores in this process's affinity mask"
    } else {
        "one per physical core"
    }
}

fn measure(threads: usize, isa: Isa) -> Result<Roofline> {
    let mut limits = Limits::each(&[threads], isa)?.remove(0);
    (0..ROUNDS).for_each(|_| limits.measure());
    let [bandwidth, int8] = [limits.bandwidth, limits.int8].map(|mut x| {
        x.sort_by(f64::total_cmp);
        [x[ROUNDS / 2], x[0], x[ROUNDS - 1]]
    });
    Ok(Roofline { bandwidth, int8, ridge: int8[0] / bandwidth[0] })
}

fn fit(shape: &Shape, room: u64, roofline: &Roofline) -> Fit {
    let needs = |quant| {
        let shape = shape.clone().with_quant(quant);
        let buffers = buffer_bytes(&shape.config(), &EngineOptions::default());
        shape.bytes().saturating_add(buffers)
    };
    let bytes = needs(Quant::Q8);
    let others = Quant::ALL.into_iter().filter(|&quant| quant != Quant::F32);
    Fit {
        needs: others.map(|quant| (quant.name(), needs(quant))).collect(),
        shape: shape.name().to_owned(),
        parameters: shape.parameters(),
        bytes,
        fits: bytes <= room,
        decode_tps: SHARE * roofline.bandwidth[0] / shape.pass_bytes() as f64,
    }
}

/// The largest model that fits if a tenth of the memory is reserved for cache, buffers and other
/// programs.
fn largest(room: u64, roofline: &Roofline, models: &[Fit]) -> Largest {
    let bytes = room / 10 * 9;
    let fitting = models.iter().filter(|m| m.fits).max_by_key(|m| m.bytes);
    Largest {
        parameters: (bytes as f64 / BYTES) as u64,
        bytes,
        decode_tps: SHARE * roofline.bandwidth[0] / bytes as f64,
        shape: fitting.map(|m| m.shape.clone()),
    }
}

/// Changes that would let models run faster, or run at all.
fn advice(isa: Isa, cores: &Cores, models: &[Fit], load: Option<f64>) -> Vec<String> {
    let mut advice = Vec::new();
    if let Some(load) = load.filter(|&load| load > BUSY) {
        advice.push(format!(
            "other programs are busy (load {load:.1}); models run faster on an idle machine"
        ));
    }
    let best = Kernels::best().isa();
    if isa != best {
        advice.push(format!("unset NANOINFER_ISA to use {}, which is faster", best.name()));
    } else if isa == Isa::Scalar {
        advice.push(
            "this CPU has no supported vector instructions; expect a tenth of the speed".into(),
        );
    }
    if cores.threads() < cores.physical {
        advice.push(format!(
            "a CPU quota grants {} of {} cores; raise it to use more",
            cores.granted, cores.physical
        ));
    }
    if models.iter().all(|m| !m.fits) {
        advice.push("not even the smallest model fits into memory; close other programs".into());
    }
    advice
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_names_the_limit_on_threads() {
        let all = Cores { online: 8, allowed: 8, physical: 4, granted: 8 };
        assert!(thread_reason(&all).contains("physical core"));
        assert!(thread_reason(&Cores { granted: 2, ..all }).contains("quota"));
        assert!(thread_reason(&Cores { allowed: 4, granted: 4, ..all }).contains("affinity"));
        // A quota that exceeds the number of physical cores is not the limit.
        assert!(!thread_reason(&Cores { granted: 6, ..all }).contains("quota"));
    }

    #[test]
    fn advice_names_the_bottleneck() {
        let all = Cores { online: 8, allowed: 8, physical: 8, granted: 8 };
        let best = Kernels::best().isa();
        let fits = |fits| {
            let needs = Default::default();
            [Fit { shape: "x".into(), parameters: 1, bytes: 1, fits, needs, decode_tps: 1.0 }]
        };
        let joined = |isa, cores, load| advice(isa, &cores, &fits(true), load).join("; ");
        assert!(joined(best, all, Some(2.0)).contains("load 2.0"));
        assert!(!joined(best, all, Some(0.1)).contains("load"));
        assert!(joined(best, Cores { granted: 2, ..all }, None).contains("2 of 8 cores"));
        assert_eq!(joined(Isa::Scalar, all, None).contains("NANOINFER_ISA"), best != Isa::Scalar);
        assert!(advice(best, &all, &fits(false), None).join("").contains("smallest"));
    }

    #[test]
    fn fit_and_expected_speed() {
        let roofline = Roofline { bandwidth: [1e10; 3], int8: [1e12; 3], ridge: 100.0 };
        let shape = Shape::find("tinyllama-1.1b").unwrap();
        let tiny = fit(&shape, 2 << 30, &roofline);
        assert_eq!(tiny.parameters, 1_100_048_384);
        // 9 GB/s divided by the bytes read per token: 1,034,420,224 for the matrices except the
        // embeddings, 4 for each of 426,240 row scales and 92,160 norm weights, and 8 for each of 32
        // RoPE frequencies.
        let expected = 9e9 / 1_036_494_080.0;
        assert_eq!(tiny.needs["q8"], tiny.bytes);
        assert!(tiny.needs["q4"] < tiny.needs["q5"] && tiny.needs["q5"] < tiny.bytes);
        assert!(tiny.fits && (tiny.decode_tps - expected).abs() < 1e-9, "{}", tiny.decode_tps);
        assert!(!fit(&shape, 1 << 30, &roofline).fits);
        let most = largest(10_000_000_000, &roofline, &[tiny]);
        assert_eq!((most.bytes, most.shape), (9_000_000_000, Some("tinyllama-1.1b".into())));
        assert!((8.9e9..9e9).contains(&(most.parameters as f64)), "{}", most.parameters);
        assert_eq!(most.decode_tps, 1.0);
    }
}
