use std::sync::LazyLock;

use super::*;
use crate::pool::Pool;

fn sampler(sampling: Sampling) -> Sampler {
    Sampler { sampling, ..Sampler::new(1000, 100) }
}

fn scratch(vocab: usize) -> DrawScratch {
    let pool = Pool::new(1).unwrap();
    DrawScratch::new(&mut Buffers::new(&pool), vocab)
}

fn rows(values: &[f32], rows: usize) -> LogitRows<'_> {
    static KERNELS: LazyLock<Kernels> = LazyLock::new(Kernels::best);
    LogitRows { kernels: &KERNELS, values, rows }
}

/// Logits in the layout of a pass with one row.
fn row(logits: &[f32]) -> Vec<f32> {
    let mut values = logits.to_vec();
    values.resize(logits.len().next_multiple_of(LANES), f32::NAN); // padding must be ignored
    values
}

fn draw(s: &Sampler, logits: &[f32], position: usize) -> u32 {
    let values = row(logits);
    s.draw(rows(&values, 1), 0, position, &mut scratch(logits.len())).unwrap()
}

/// Frequencies of 20,000 draws.
fn frequencies(sampling: Sampling, logits: &[f32]) -> Vec<f64> {
    let s = sampler(sampling);
    let values = row(logits);
    let mut scratch = scratch(logits.len());
    let rows = rows(&values, 1);
    let mut counts = vec![0.0; logits.len()];
    for position in 0..20_000 {
        let id = s.draw(rows, 0, position, &mut scratch).unwrap();
        counts[id as usize] += 1.0 / 20_000.0;
    }
    counts
}

const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, 2.0, -3.0];

fn softmax(temperature: f64, keep: &[usize]) -> Vec<f64> {
    let exp = |i: usize| (f64::from(LOGITS[i]) / temperature).exp();
    let weight = |i: usize| if keep.contains(&i) { exp(i) } else { 0.0 };
    let sum: f64 = (0..5).map(weight).sum();
    (0..5).map(|i| weight(i) / sum).collect()
}

#[track_caller]
fn assert_near(got: &[f64], want: &[f64]) {
    // Four standard deviations of a frequency over 20,000 draws.
    assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 0.0142), "{got:?} {want:?}");
    assert!(got.iter().zip(want).all(|(g, w)| *w > 0.0 || *g == 0.0), "{got:?} {want:?}");
}

#[test]
fn greedy_picks_the_lowest_id_of_equal_logits() {
    assert_eq!(draw(&sampler(Sampling::default()), &LOGITS, 0), 1);
}

#[test]
fn each_filter_yields_the_correct_distribution() {
    let base = Sampling { temperature: 1.0, seed: 7, ..Sampling::default() };
    let all = [0, 1, 2, 3, 4];
    assert_near(&frequencies(base, &LOGITS), &softmax(1.0, &all));
    let hot = Sampling { temperature: 2.0, ..base };
    assert_near(&frequencies(hot, &LOGITS), &softmax(2.0, &all));
    let k = Sampling { top_k: 3, ..base };
    assert_near(&frequencies(k, &LOGITS), &softmax(1.0, &[1, 2, 3]));
    // Two equal tokens have a combined probability of 81 %: 0.5 needs both, 0.3 only the first.
    let p = Sampling { top_p: 0.5, ..base };
    assert_near(&frequencies(p, &LOGITS), &softmax(1.0, &[1, 3]));
    let p = Sampling { top_p: 0.3, ..base };
    assert_near(&frequencies(p, &LOGITS), &softmax(1.0, &[1]));
    let m = Sampling { min_p: 0.3, ..base };
    assert_near(&frequencies(m, &LOGITS), &softmax(1.0, &[1, 2, 3]));
    let both = Sampling { top_k: 3, top_p: 0.9, temperature: 2.0, ..base };
    assert_near(&frequencies(both, &LOGITS), &softmax(2.0, &[1, 2, 3]));
}

#[test]
fn top_is_sorted_and_has_the_models_probabilities() {
    let s = sampler(Sampling { temperature: 0.3, top_k: 1, ..Sampling::default() });
    let (values, mut scratch) = (row(&LOGITS), scratch(5));
    let rows = rows(&values, 1);
    let mut top_of = |n| s.top(rows, 0, n, &mut scratch);
    let top = top_of(3);
    assert_eq!(top.iter().map(|c| c.id).collect::<Vec<_>>(), [1, 3, 2]);
    let want = softmax(1.0, &[0, 1, 2, 3, 4]);
    assert!(top.iter().all(|c| (f64::from(c.probability) - want[c.id as usize]).abs() < 1e-6));
    assert_eq!(top_of(9).len(), 5);
    assert!(top_of(0).is_empty());
}

#[test]
fn filters_work_on_a_flat_distribution() {
    let logits: Vec<f32> = (0..1000).map(|i| (i % 10) as f32 * -9.0).collect();
    let s = sampler(Sampling { temperature: 1.0, top_k: 450, ..Sampling::default() });
    let (values, mut scratch) = (row(&logits), scratch(1000));
    s.draw(rows(&values, 1), 0, 0, &mut scratch).unwrap();
    let ids: Vec<u32> = scratch.candidates.iter().map(|c| c.id).collect();
    let mut want: Vec<u32> = (0..1000).collect();
    want.sort_by_key(|i| (i % 10, *i));
    assert_eq!(ids, want[..450]);
}

#[test]
fn penalties_apply_to_the_correct_tokens() {
    let s = Sampling {
        repetition_penalty: 2.0,
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        ..Sampling::default()
    };
    let mut s = sampler(s);
    s.restart(&[1, 4]);
    s.push(3);
    s.push(3);
    let mut logits = LOGITS.to_vec();
    s.penalize(&mut logits);
    assert_eq!(logits, [0.0, 1.0, 1.0, 0.0, -6.0]);
    let pushed = [(4, s.push(4)), (2, s.push(2)), (2, s.push(2))];
    assert_eq!(pushed.map(|(_, new)| new), [false, true, false]);
    pushed.iter().rev().for_each(|&(id, new)| s.pop(id, new));
    let mut again = LOGITS.to_vec();
    s.penalize(&mut again);
    assert_eq!(again, logits);
    s.restart(&[]);
    let mut logits = LOGITS.to_vec();
    s.penalize(&mut logits);
    assert_eq!(logits, LOGITS);
}

#[test]
fn a_draw_depends_only_on_seed_and_position() {
    let sampling = Sampling { temperature: 1.0, seed: 3, ..Sampling::default() };
    let (a, b) = (sampler(sampling), sampler(sampling));
    let draws: Vec<u32> = (0..50).map(|p| draw(&a, &LOGITS, p)).collect();
    let backwards: Vec<u32> = (0..50).rev().map(|p| draw(&b, &LOGITS, p)).collect();
    assert!(draws.iter().eq(backwards.iter().rev()));
}

#[test]
fn rows_are_interleaved_and_must_be_finite() {
    let (n, vocab) = (3, 1003usize);
    let value = |row: usize, id: usize| (10_000 * row + id) as f32;
    let index = |row: usize, id: usize| (id / LANES * n + row) * LANES + id % LANES;
    let mut values = vec![f32::INFINITY; vocab.div_ceil(LANES) * n * LANES];
    for (row, id) in (0..n).flat_map(|row| (0..vocab).map(move |id| (row, id))) {
        values[index(row, id)] = value(row, id);
    }
    values[index(2, 7)] = f32::NAN;
    let rows = rows(&values, n);
    let mut to = vec![0.0; vocab];
    assert_eq!(rows.copy(1, &mut to), Some(value(1, vocab - 1)));
    assert!((0..vocab).all(|id| to[id] == value(1, id)));
    assert_eq!(rows.copy(2, &mut to), None);
    let s = sampler(Sampling::default());
    assert_eq!(s.draw(rows, 2, 0, &mut scratch(vocab)), None);
}

/// With weights whose sums are exact, so that both orders of adding them have the same result.
#[test]
fn a_draw_from_all_tokens_finds_the_same_token_as_one_from_a_list() {
    let weight = |i: u32| if i % 7 < 3 { 0.0 } else { (i * i % 61) as f32 / 64.0 };
    for n in [1, 4, 255, 256, 257, 1000] {
        let weights: Vec<f32> = (0..n).map(weight).collect();
        let weighted = |(&weight, id)| Weighted { logit: 0.0, weight, id };
        let list: Vec<Weighted> = weights.iter().zip(0..).map(weighted).collect();
        for share in 0..64 {
            let share = f64::from(share) / 64.0;
            let id = pick_any(&weights, share * weights.iter().map(|&w| f64::from(w)).sum::<f64>());
            assert_eq!(id, pick(&list, share), "{share} of {n}");
            assert!(id.is_none_or(|id| weights[id as usize] > 0.0));
        }
    }
}
