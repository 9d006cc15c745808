//! Compares the product of trellis-coded panels with the Q8 product of the levels that the plain reader
//! yields, bit for bit, on every instruction set. (`oracle.rs` compares that product with plain loops.)

mod common;

use common::{bits, isas, noise};
use nanoinfer_kernels::*;

/// Panels of random codes, and Q8 panels of their levels.
fn panels(t: &Trellis, n: usize, k: usize, seed: u64) -> (Vec<u8>, Vec<u8>) {
    let len = trellis_panel_bytes(t.bits.into(), k);
    let random = |n: usize, seed| noise(n, seed).into_iter().map(|x| (x * 32768.0) as i32 as u8);
    let mut coded: Vec<u8> = random(n * len, seed).collect();
    let mut q8 = vec![0; n * q8_panel_bytes(k)];
    let scales = noise(16 * n, seed + 1);
    for (p, (coded, q8)) in coded.chunks_mut(len).zip(q8.chunks_mut(q8_panel_bytes(k))).enumerate()
    {
        for (r, scale) in scales[16 * p..][..16].iter().enumerate() {
            coded[4 * r..][..4].copy_from_slice(&scale.to_le_bytes());
            let mut levels = vec![0i8; k];
            let read = trellis_row(t, coded, r, &mut levels);
            assert_eq!(read.to_bits(), scale.to_bits());
            q8[4 * r..][..4].copy_from_slice(&scale.to_le_bytes());
            for (i, level) in levels.iter().enumerate() {
                q8[64 + i / 4 * 64 + 4 * r + i % 4] = (i32::from(*level) + 128) as u8;
            }
        }
    }
    (coded, q8)
}

#[test]
fn products_equal_those_of_the_decoded_panels() {
    for kernels in isas() {
        for t in &Trellis::ALL {
            for (m, n, k) in [
                (1, 1, 64),
                (1, 3, 128),
                (2, 1, 192),
                (3, 2, 640),
                (4, 3, 576),
                (5, 2, 128),
                (8, 1, 128),
                (13, 2, 192),
                (16, 1, 192),
                (29, 2, 192),
                (37, 2, 576),
            ] {
                let (coded, q8) = panels(t, n, k, (m + k) as u64);
                let lines = packed_rows(m) * k / GROUP;
                let q: Vec<i8> =
                    noise(GROUP * lines, 5).into_iter().map(|x| (x * 127.4) as i8).collect();
                let sum = |line: &[i8]| -128 * line.iter().map(|&q| i32::from(q)).sum::<i32>();
                let sums: Vec<i32> = q.chunks(GROUP).map(sum).collect();
                let scales = noise(lines, 6);
                let inputs = QuantizedInputs { q: &q, scales: &scales, sums: &sums, m };
                let (bias, start) = (noise(16 * n, 7), noise(16 * n * m, 8));
                let mut decoded = vec![0; decoded_panel_bytes(k)];
                for (bias, add) in [(&[][..], false), (&bias[..], true)] {
                    let (mut got, mut want) = (start.clone(), start.clone());
                    kernels.gemm_q8(Gemm { w: &q8, k, inputs, bias, add, out: &mut want });
                    kernels.gemm_trellis(GemmTrellis {
                        bits: t.bits,
                        w: &coded,
                        k,
                        inputs,
                        bias,
                        add,
                        out: &mut got,
                        decoded: &mut decoded,
                    });
                    let isa = kernels.isa().name();
                    assert_eq!(bits(&got), bits(&want), "{isa}, {} bits, m={m} k={k}", t.bits);
                }
            }
        }
    }
}

#[test]
fn rows_can_be_read_alone() {
    for t in &Trellis::ALL {
        let (coded, q8) = panels(t, 1, 192, 1);
        for r in 0..16 {
            let (mut got, mut want) = (vec![0.0; 192], vec![0.0; 192]);
            trellis_values(t, &coded, r, &mut got);
            pack::q8_row(&q8, r, &mut want);
            assert_eq!(bits(&got), bits(&want));
        }
    }
}
