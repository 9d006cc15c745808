//! Compares every kernel with a naive loop on every instruction set of this machine, and every
//! instruction set with scalar, bit for bit.

mod common;

use common::{bits, isas, noise};
use nanoinfer_kernels::*;

/// Quantized inputs, in tiles and as plain `[m][k]`.
struct Packed {
    q: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<i32>,
    plain: Vec<Vec<i8>>,
    plain_scales: Vec<Vec<f32>>,
}

/// `[m][k]` as `[k/16][m][16]`.
fn panel_major(x: &[f32], m: usize, k: usize) -> Vec<f32> {
    (0..m * k).map(|i| x[i / 16 % m * k + i / (16 * m) * 16 + i % 16]).collect()
}

/// Line of group `g` of token `t` in packed inputs.
fn line(t: usize, g: usize, m: usize, groups: usize) -> usize {
    t / 16 * groups * tile_rows(m) + g * tile_rows(m) + t % 16
}

fn pack(kernels: &Kernels, x: &[f32], m: usize, k: usize) -> Packed {
    let (groups, lines) = (k / 64, packed_rows(m) * k / 64);
    let mut p = Packed {
        q: vec![0; 64 * lines],
        scales: vec![0.0; lines],
        sums: vec![0; lines],
        plain: vec![vec![0; k]; m],
        plain_scales: vec![vec![0.0; groups]; m],
    };
    let (rows, major) = (tile_rows(m), panel_major(x, m, k));
    let tiles = p.q.chunks_mut(rows * k).zip(p.scales.chunks_mut(rows * groups));
    for (i, ((q, scales), sums)) in tiles.zip(p.sums.chunks_mut(rows * groups)).enumerate() {
        let (at, to) = (16 * i, TileMut { rows, row: 0, to: TileData::Q8 { q, scales, sums } });
        let n = rows.min(m - at);
        kernels.pack(Pack { x: &major, m, at, n, rotation: 1, to });
    }
    for t in 0..m {
        for g in 0..groups {
            let x: &[f32; 64] = x[t * k + 64 * g..].first_chunk().unwrap();
            let line = line(t, g, m, groups);
            let amax = x.iter().fold(0.0f32, |a, x| a.max(x.abs()));
            p.plain_scales[t][g] = amax / 127.0;
            for (i, x) in x.iter().enumerate() {
                let want = (x * (127.0 / amax)).round_ties_even() as i8;
                assert_eq!(p.q[64 * line + i], want);
                p.plain[t][64 * g + i] = want;
            }
            let sum: i32 = p.plain[t][64 * g..][..64].iter().map(|&q| i32::from(q)).sum();
            assert_eq!(p.sums[line], -128 * sum);
            assert_eq!(p.scales[line].to_bits(), (amax / 127.0).to_bits());
        }
    }
    p
}

#[test]
fn gemm_q8_equals_the_integer_triple_loop() {
    for kernels in isas() {
        for (m, panels, k) in [
            (1, 1, 64),
            (1, 5, 192),
            (2, 3, 128),
            (7, 2, 256),
            (12, 3, 64),
            (16, 1, 192),
            (25, 4, 640),
            (37, 3, 2176),  // several blocks of groups of a matrix unit
            (290, 1, 2176), // and several runs of its tiles
        ] {
            let x = noise(m * k, 3);
            let rows = noise(panels * 16 * k, 4);
            let bias = noise(panels * 16, 5);
            let mut w = vec![0u8; panels * q8_panel_bytes(k)];
            for (rows, w) in rows.chunks(16 * k).zip(w.chunks_mut(q8_panel_bytes(k))) {
                pack::q8_panel(rows, k, w);
            }
            let p = pack(&kernels, &x, m, k);
            let inputs = QuantizedInputs { q: &p.q, scales: &p.scales, sums: &p.sums, m };
            let start = noise(panels * m * 16, 6);
            for (bias, add) in [(&[][..], false), (&bias[..], true)] {
                let mut out = start.clone();
                kernels.gemm_q8(Gemm { w: &w, k, inputs, bias, add, out: &mut out });
                for panel in 0..panels {
                    for r in 0..16 {
                        let mut row = vec![0.0; k];
                        let bytes = &w[panel * q8_panel_bytes(k)..][..q8_panel_bytes(k)];
                        pack::q8_row(bytes, r, &mut row);
                        let scale = f32::from_le_bytes(bytes[4 * r..4 * r + 4].try_into().unwrap());
                        for token in 0..m {
                            let mut c = 0.0f32;
                            for g in 0..k / 64 {
                                let dot: i32 = (64 * g..64 * g + 64)
                                    .map(|i| {
                                        let q = bytes[64 + i / 4 * 64 + 4 * r + i % 4];
                                        (i32::from(q) - 128) * i32::from(p.plain[token][i])
                                    })
                                    .sum();
                                c = fma(dot as f32, p.plain_scales[token][g], c);
                            }
                            let mut want = c * scale;
                            if add {
                                want += bias[panel * 16 + r];
                                want += start[(panel * m + token) * 16 + r];
                            }
                            let got = out[(panel * m + token) * 16 + r];
                            assert_eq!(
                                got.to_bits(),
                                want.to_bits(),
                                "{} m={m} k={k}",
                                kernels.isa().name()
                            );
                            // Weight and input are each off by at most half a step of 1/127.
                            if !add {
                                let exact: f64 = (0..k)
                                    .map(|i| {
                                        f64::from(rows[(panel * 16 + r) * k + i])
                                            * f64::from(x[token * k + i])
                                    })
                                    .sum();
                                assert!((exact - f64::from(got)).abs() < k as f64 / 127.0);
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn gemm_f32_equals_the_fused_triple_loop() {
    for kernels in isas() {
        for (m, panels, k) in [(1, 1, 64), (3, 2, 128), (13, 3, 192), (35, 2, 128)] {
            let (x, rows) = (noise(m * k, 1), noise(panels * 16 * k, 2));
            let mut w = vec![0f32; rows.len()];
            for (p, rows) in rows.chunks(16 * k).enumerate() {
                let mut bytes = vec![0u8; 64 * k];
                pack::f32_panel(rows, k, &mut bytes);
                for (w, b) in w[p * 16 * k..].iter_mut().zip(bytes.chunks(4)) {
                    *w = f32::from_le_bytes(b.try_into().unwrap());
                }
            }
            let mut tiles = vec![0f32; packed_rows(m) * k];
            let (per_tile, major) = (tile_rows(m), panel_major(&x, m, k));
            for (i, tile) in tiles.chunks_mut(per_tile * k).enumerate() {
                let at = 16 * i;
                let to = TileMut { rows: per_tile, row: 0, to: TileData::F32(tile) };
                let n = per_tile.min(m - at);
                kernels.pack(Pack { x: &major, m, at, n, rotation: 1, to });
            }
            let mut out = vec![0f32; panels * m * 16];
            let inputs = F32Inputs { x: &tiles, m };
            kernels.gemm_f32(GemmF32 { w: &w, k, inputs, bias: &[], add: false, out: &mut out });
            for (i, got) in out.iter().enumerate() {
                let panel = i / (16 * m);
                let token = i / 16 % m;
                let r = i % 16;
                let row = &rows[(panel * 16 + r) * k..][..k];
                let want = row.iter().zip(&x[token * k..]).fold(0.0f32, |c, (w, x)| fma(*w, *x, c));
                assert_eq!(got.to_bits(), want.to_bits());
            }
        }
    }
}

#[test]
fn rotation_multiplies_by_the_hadamard_matrix_and_is_its_own_inverse() {
    for kernels in isas() {
        for block in [1, 2, 4, 8, 16, 32, 64] {
            let x = noise(192, block as u64);
            let mut y = x.clone();
            kernels.rotate(Rotate { x: &mut y, block });
            let mut packed = x.clone();
            pack::hadamard(&mut packed, block);
            assert_eq!(bits(&y), bits(&packed), "{} block {block}", kernels.isa().name());
            for (i, got) in y.iter().enumerate() {
                let base = i / block * block;
                let want: f64 = (0..block)
                    .map(|j| {
                        let sign = if ((i - base) & j).count_ones() % 2 == 0 { 1.0 } else { -1.0 };
                        sign * f64::from(x[base + j]) / (block as f64).sqrt()
                    })
                    .sum();
                assert!((want - f64::from(*got)).abs() < 1e-6);
            }
            kernels.rotate(Rotate { x: &mut y, block });
            assert!(x.iter().zip(&y).all(|(a, b)| (a - b).abs() < 1e-6));
        }
    }
}

#[test]
fn quantization_handles_zero_tiny_and_non_finite_values() {
    for kernels in isas() {
        for (value, scale_is_zero) in
            [(0.0, true), (1e-31, true), (1e-29, false), (f32::INFINITY, false), (f32::NAN, true)]
        {
            let mut x = [0.0f32; 64];
            x[7] = value;
            let mut q = [1i8; 64];
            let (mut scales, mut sums) = ([9.0f32; 1], [9; 1]);
            let to = TileData::Q8 { q: &mut q, scales: &mut scales, sums: &mut sums };
            let to = TileMut { rows: 1, row: 0, to };
            kernels.pack(Pack { x: &x, m: 1, at: 0, n: 1, rotation: 1, to });
            if value.is_finite() {
                assert_eq!(scales[0] == 0.0, scale_is_zero, "{value}");
                assert_eq!(q[7], if scale_is_zero { 0 } else { 127 });
            }
            assert!(q.iter().enumerate().all(|(i, &q)| i == 7 || q == 0 || !value.is_finite()));
        }
    }
}

#[test]
fn rope_rotates_pairs_by_the_exact_angle() {
    for kernels in isas() {
        for half in [1, 12, 32, 40, 64] {
            for position in [0u64, 1, 63, 4_095, 1_000_000] {
                let frequencies: Vec<f64> =
                    (0..half).map(|i| 10_000f64.powf(-(i as f64) / half as f64)).collect();
                let turns: Vec<u64> = frequencies
                    .iter()
                    .map(|f| (f / std::f64::consts::TAU * 18_446_744_073_709_551_616.0) as u64)
                    .collect();
                let (mut cos, mut sin) = (vec![0.0; half], vec![0.0; half]);
                rope_table(position, &turns, 1.0, &mut cos, &mut sin);
                let x = noise(2 * half, 11);
                let mut y = x.clone();
                kernels.rope(Rope { x: &mut y, half, cos: &cos, sin: &sin });
                for i in 0..half {
                    let angle = frequencies[i] * position as f64;
                    let (a, b) = (f64::from(x[i]), f64::from(x[i + half]));
                    let want =
                        (a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin());
                    assert!((want.0 - f64::from(y[i])).abs() < 1e-6, "{position} {i}");
                    assert!((want.1 - f64::from(y[i + half])).abs() < 1e-6);
                }
            }
        }
    }
}

/// The cache of one head in one encoding.
enum Store {
    F32(Vec<f32>, Vec<f32>),
    F16(Vec<u16>, Vec<u16>),
    Q8(Vec<u8>, Vec<i8>, Vec<f32>),
    Q4(Vec<u8>, Vec<u8>, Vec<f32>),
}

impl Store {
    fn new(kind: &str, n: usize, [head, width]: [usize; 2]) -> Self {
        let blocks = n.div_ceil(BLOCK);
        let (len, values) = (blocks * BLOCK * head, blocks * BLOCK * width);
        match kind {
            "f32" => Self::F32(vec![0.0; len], vec![0.0; values]),
            "f16" => Self::F16(vec![0; len], vec![0; values]),
            "q4" => Self::Q4(
                vec![0; blocks * q4_key_block(head)],
                vec![0; blocks * q4_value_block(width)],
                vec![0.0; blocks * BLOCK],
            ),
            _ => Self::Q8(
                vec![0; blocks * q8_key_block(head)],
                vec![0; values],
                vec![0.0; blocks * BLOCK],
            ),
        }
    }

    fn block(&self, i: usize, [head, width]: [usize; 2]) -> KvBlock<'_> {
        let part = |width| i * BLOCK * width..(i + 1) * BLOCK * width;
        let bytes = q8_key_block(head);
        match self {
            Self::F32(k, v) => KvBlock::F32 { k: &k[part(head)], v: &v[part(width)] },
            Self::F16(k, v) => KvBlock::F16 { k: &k[part(head)], v: &v[part(width)] },
            Self::Q8(k, v, s) => KvBlock::Q8 {
                k: &k[i * bytes..(i + 1) * bytes],
                v: &v[part(width)],
                v_scales: &s[i * BLOCK..(i + 1) * BLOCK],
            },
            Self::Q4(k, v, s) => KvBlock::Q4 {
                k: &k[i * q4_key_block(head)..][..q4_key_block(head)],
                v: &v[i * q4_value_block(width)..][..q4_value_block(width)],
                v_scales: &s[i * BLOCK..(i + 1) * BLOCK],
            },
        }
    }

    fn block_mut(&mut self, i: usize, [head, width]: [usize; 2]) -> KvBlockMut<'_> {
        let part = |width| i * BLOCK * width..(i + 1) * BLOCK * width;
        let bytes = q8_key_block(head);
        match self {
            Self::F32(k, v) => KvBlockMut::F32 { k: &mut k[part(head)], v: &mut v[part(width)] },
            Self::F16(k, v) => KvBlockMut::F16 { k: &mut k[part(head)], v: &mut v[part(width)] },
            Self::Q8(k, v, s) => KvBlockMut::Q8 {
                k: &mut k[i * bytes..(i + 1) * bytes],
                v: &mut v[part(width)],
                v_scales: &mut s[i * BLOCK..(i + 1) * BLOCK],
            },
            Self::Q4(k, v, s) => KvBlockMut::Q4 {
                k: &mut k[i * q4_key_block(head)..][..q4_key_block(head)],
                v: &mut v[i * q4_value_block(width)..][..q4_value_block(width)],
                v_scales: &mut s[i * BLOCK..(i + 1) * BLOCK],
            },
        }
    }
}

/// Outputs of a tile of queries after merging spans; query `m` sees positions `visible[m]` and the score `sink`.
fn attend(
    kernels: &Kernels,
    store: &Store,
    q: &[Vec<f32>],
    [head, width]: [usize; 2],
    visible: &[(usize, usize)],
    (softcap, sink): (f32, f32),
) -> Vec<Vec<f32>> {
    let (n, len) = (q.len(), AttendBlock::state_len(width));
    let int8 = matches!(store, Store::Q8(..) | Store::Q4(..));
    let (mut plain, mut packed) = (vec![0.0; if int8 { 0 } else { n * head }], vec![0i8; n * head]);
    let (mut scales, mut sums) = (vec![0.0; n], vec![0; n]);
    for (row, q) in q.iter().enumerate() {
        let to = if int8 {
            QueriesMut::Q8 { q: &mut packed, scales: &mut scales, sums: &mut sums }
        } else {
            QueriesMut::F32(&mut plain)
        };
        kernels.pack_query(PackQuery { x: &mut q.clone(), row, rotation: 16, to });
    }
    let queries = if int8 {
        Queries::Q8 { q: &packed, scales: &scales, sums: &sums }
    } else {
        Queries::F32(&plain)
    };
    let (first, last) =
        (visible.iter().map(|v| v.0).min().unwrap(), visible.iter().map(|v| v.1).max().unwrap());
    let mut totals: Vec<Option<Vec<f32>>> = vec![None; n];
    for span in (first / SPAN * SPAN..last).step_by(SPAN) {
        let mut states = vec![0.0; n * len];
        states.chunks_mut(len).for_each(AttendBlock::reset);
        for at in (span..(span + SPAN).min(last)).step_by(BLOCK) {
            let clip = |x: usize| x.clamp(at, at + BLOCK) - at;
            let visible: Vec<_> =
                visible.iter().map(|(from, to)| (clip(*from), clip(*to))).collect();
            let block = store.block(at / BLOCK, [head, width]);
            kernels.attend(AttendBlock {
                queries,
                first: 0,
                block,
                next: (at + BLOCK < last).then(|| store.block(at / BLOCK + 1, [head, width])),
                head,
                value: width,
                visible: &visible,
                scale: 0.3,
                softcap,
                states: &mut states,
            });
        }
        for (total, next) in totals.iter_mut().zip(states.chunks(len)) {
            match total {
                _ if next[0] == f32::NEG_INFINITY => {}
                None => *total = Some(next.to_vec()),
                Some(state) => kernels.merge_spans(MergeSpans { state, next }),
            }
        }
    }
    let finish = |state: Option<Vec<f32>>| {
        let mut out = vec![0.0; width];
        kernels.finish_head(FinishHead { state: &state.unwrap(), sink, out: &mut out });
        out
    };
    totals.into_iter().map(finish).collect()
}

#[test]
fn attention_is_softmax_of_visible_positions() {
    // Tolerance per encoding: f16 keys of magnitude 1 are off by up to 2^-12, 8-bit keys by up to 1/254,
    // 4-bit keys and values by up to 1/8.
    for (kind, tolerance) in [("f32", 1e-5), ("f16", 2e-3), ("q8", 5e-2), ("q4", 0.5)] {
        let mut reference: Vec<Vec<u32>> = Vec::new();
        for kernels in isas() {
            let mut all = Vec::new();
            const NONE: f32 = f32::NEG_INFINITY;
            for ([head, width], visible, softcap, sink) in [
                ([16, 16], vec![(0, 1)], 0.0, NONE),
                ([32, 32], vec![(0, 64), (0, 63), (0, 65)], 0.0, NONE),
                ([32, 32], vec![(5, 64), (0, 63), (0, 65)], 2.0, NONE),
                ([64, 64], vec![(0, 65); 4], 0.0, NONE),
                ([80, 80], vec![(130, 700), (131, 701)], 0.0, NONE),
                ([48, 48], vec![(0, 1100)], 3.5, NONE),
                ([80, 48], vec![(3, 700), (131, 701), (0, 64)], 0.0, NONE),
                ([32, 32], vec![(5, 64), (0, 63), (0, 65)], 0.0, -1.5),
                ([48, 48], vec![(0, 1100)], 3.5, 2.5),
                ([16, 16], vec![(0, 1)], 0.0, 100.0),
            ] {
                let n = visible.iter().map(|v| v.1).max().unwrap();
                let (k, v) = (noise(n * head, 13), noise(n * width, 14));
                let mut store = Store::new(kind, n, [head, width]);
                for t in 0..n {
                    let (mut key, mut value) =
                        (k[t * head..][..head].to_vec(), v[t * width..][..width].to_vec());
                    let to = store.block_mut(t / BLOCK, [head, width]);
                    kernels.store_kv(StoreKv {
                        key: &mut key,
                        value: &mut value,
                        at: t % BLOCK,
                        rotation: 16,
                        to,
                    });
                }
                let q: Vec<Vec<f32>> = (0..visible.len())
                    .map(|m| noise(head, 20 + m as u64).iter().map(|x| x * 4.0).collect())
                    .collect();
                let out = attend(&kernels, &store, &q, [head, width], &visible, (softcap, sink));
                for (m, (from, to)) in visible.iter().copied().enumerate() {
                    let dot = |t: usize| {
                        (0..head)
                            .map(|d| f64::from(q[m][d]) * f64::from(k[t * head + d]))
                            .sum::<f64>()
                    };
                    let cap = |x: f64| match softcap {
                        0.0 => x,
                        c => f64::from(c) * (x / f64::from(c)).tanh(),
                    };
                    let score = |t: usize| cap(dot(t) * f64::from(0.3f32));
                    let scores: Vec<f64> = (from..to).map(score).collect();
                    let max = scores.iter().copied().fold(f64::from(sink.max(f32::MIN)), f64::max);
                    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                    let sum = weights.iter().sum::<f64>() + (f64::from(sink) - max).exp();
                    for d in 0..width {
                        let value = |t: usize| f64::from(v[t * width + d]);
                        let want =
                            weights.iter().zip(from..).map(|(w, t)| w * value(t)).sum::<f64>()
                                / sum;
                        let got = f64::from(out[m][d]);
                        assert!(
                            (want - got).abs() < tolerance,
                            "{kind} head {head}: {got}, expected {want}"
                        );
                    }
                    // A query yields the same bits in a tile as on its own.
                    let (q, visible) = (&q[m..m + 1], &visible[m..m + 1]);
                    let alone =
                        attend(&kernels, &store, q, [head, width], visible, (softcap, sink));
                    assert_eq!(bits(&alone[0]), bits(&out[m]));
                    all.push(bits(&out[m]));
                }
            }
            if reference.is_empty() {
                reference = all;
            } else {
                assert_eq!(reference, all, "{kind}: {} differs from scalar", kernels.isa().name());
            }
        }
    }
}

/// A key or value of the 4-bit cache, from its scale and codes.
fn decoded(scale: f32, codes: impl Iterator<Item = u8>) -> Vec<f32> {
    const LEVELS: [i8; 8] = [6, 18, 31, 44, 59, 76, 97, 127];
    let level = |code: u8| match usize::from(code) {
        n if n < 8 => -LEVELS[7 - n],
        n => LEVELS[n - 8],
    };
    codes.map(|code| scale * f32::from(level(code))).collect()
}

#[test]
fn the_4_bit_cache_has_the_documented_layout() {
    for kernels in isas() {
        for head in [16, 48, 64, 128] {
            let mut store = Store::new("q4", BLOCK, [head; 2]);
            let (keys, values) = (noise(BLOCK * head, 15), noise(BLOCK * head, 16));
            let row = |of: &[f32], at: usize| of[at * head..][..head].to_vec();
            for at in 0..BLOCK {
                let (mut key, mut value) = (row(&keys, at), row(&values, at));
                let (key, value, to) = (&mut key, &mut value, store.block_mut(0, [head; 2]));
                kernels.store_kv(StoreKv { key, value, at, rotation: 16, to });
            }
            let KvBlock::Q4 { k, v, v_scales } = store.block(0, [head; 2]) else { unreachable!() };
            for at in 0..BLOCK {
                let (panel, lane) = (&k[at / 16 * (64 + 8 * head)..], 4 * (at % 16));
                let scale = f32::from_le_bytes(*panel[lane..].first_chunk().unwrap());
                let code = |d: usize| panel[64 + d / 8 * 64 + lane + d % 4] >> (d % 8 / 4 * 4) & 15;
                let mut key = row(&keys, at);
                kernels.rotate(Rotate { x: &mut key, block: 16 });
                let value = row(&values, at);
                let byte = |d: usize| v[(at * head.div_ceil(32) + d / 32) * 16 + d % 16];
                let v_code = |d: usize| byte(d) >> (d % 32 / 16 * 4) & 15;
                for (want, got) in [
                    (key, decoded(scale, (0..head).map(code))),
                    (value, decoded(v_scales[at], (0..head).map(v_code))),
                ] {
                    let square = |x: f32| f64::from(x) * f64::from(x);
                    let error: f64 = want.iter().zip(&got).map(|(x, y)| square(x - y)).sum();
                    let all: f64 = want.iter().copied().map(square).sum();
                    assert!(error < 0.02 * all, "head {head}, position {at}: {}", error / all);
                }
            }
        }
    }
}

proptest::proptest! {
    /// Norm, rotation, quantization, activation and RoPE yield the same bits on every ISA as on scalar.
    #[test]
    fn every_isa_computes_the_same_bits(seed: u64, scale in -20i32..20) {
        let scale = 2f32.powi(scale);
        let x: Vec<f32> = noise(256, seed).iter().map(|x| x * scale).collect();
        let mut results: Vec<Vec<u32>> = Vec::new();
        for isa in Isa::ALL {
            let Some(kernels) = Kernels::new(isa) else { continue };
            let mut y = vec![0.0; 128];
            let to = TileMut { rows: 1, row: 0, to: TileData::F32(&mut y) };
            let kind = if seed % 2 == 0 { NormKind::Rms } else { NormKind::Layer };
            let norm = NormParams { kind, weight: &x[..128], bias: &[], d: 120, eps: 1e-6 };
            kernels.norm_pack(NormPack { x: &x, m: 2, at: 1, n: 1, norm, to });
            kernels.norm_row(NormRow { x: &mut y, norm });
            kernels.rotate(Rotate { x: &mut y, block: 32 });
            let mut all = bits(&y);
            let mut h = vec![0.0; 128];
            let xielu = Activation::Xielu { positive: 0.8, negative: 1.3, beta: 0.5, eps: -1e-6 };
            let [silu, gelu, relu2] = [Activation::Silu, Activation::Gelu, Activation::Relu2];
            let activation = [silu, gelu, relu2, Activation::Clamped, xielu][seed as usize % 5];
            kernels.activate(Activate { activation, gated: true, x: &x, m: 2, out: &mut h });
            kernels.soft_cap(SoftCap { x: &mut h, scale: 0.5, cap: 30.0 });
            kernels.rope(Rope { x: &mut h, half: 24, cos: &x[..24], sin: &y[..24] });
            all.extend(bits(&h));
            let mut q = [0i8; 128];
            let (mut scales, mut sums) = ([0.0; 2], [0; 2]);
            let to = TileData::Q8 { q: &mut q, scales: &mut scales, sums: &mut sums };
            let to = TileMut { rows: 2, row: 1, to };
            kernels.pack(Pack { x: &h[..64], m: 1, at: 0, n: 1, rotation: 64, to });
            all.extend(q.map(|q| q as u32));
            all.extend(bits(&scales));
            results.push(all);
        }
        proptest::prop_assert!(results.windows(2).all(|w| w[0] == w[1]));
    }
}
