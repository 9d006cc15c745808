//! Questions with several answers, the likeliest of which is the model's choice.

use std::fs::File;
use std::io::{Write, stdout};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nanoinfer_engine::Model;
use serde::Deserialize;

use super::score::score;
use super::scorer::Scorer;
use crate::args::Eval;
use crate::generate::read_text;
use crate::report::Reporter;
use crate::run::{nano_file, print_json};

/// A line of the file. Other fields, such as a subject, are left alone.
#[derive(Debug, Deserialize)]
struct Question {
    question: String,
    choices: Vec<String>,
    answer: Answer,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Answer {
    Index(usize),
    Text(String),
}

impl Question {
    /// The right choice: an index from 0, a choice's text, or a letter from A.
    fn right(&self) -> Option<usize> {
        let index = match &self.answer {
            Answer::Index(index) => *index,
            Answer::Text(text) => self.choices.iter().position(|c| c == text).or_else(|| {
                let letter = text.trim().as_bytes().first().filter(|_| text.trim().len() == 1)?;
                letter.is_ascii_uppercase().then(|| usize::from(letter - b'A'))
            })?,
        };
        (index < self.choices.len()).then_some(index)
    }
}

pub(super) fn run(args: &Eval, file: &Path) -> Result<()> {
    let questions = read(file)?;
    let model = Model::open(nano_file(&args.model)?)?;
    let mut scorer = Scorer::new(model, args, true, None)?;
    let (mut right, mut right_normalized) = (0, 0);
    let (total, mut bar) = (questions.len() as u64, Reporter::default());
    for (done, (line, question, answer)) in (1..).zip(&questions) {
        let place = || format!("{}: line {line}", file.display());
        let scores: Vec<f64> = question
            .choices
            .iter()
            .map(|choice| log_likelihood(&mut scorer, &question.question, choice))
            .collect::<Result<_>>()
            .with_context(place)?;
        let per_byte = |(s, c): (&f64, &String)| s / c.len().max(1) as f64;
        let normalized: Vec<f64> = scores.iter().zip(&question.choices).map(per_byte).collect();
        right += usize::from(best(&scores) == *answer);
        right_normalized += usize::from(best(&normalized) == *answer);
        bar.progress(done, total);
    }
    bar.end();
    let share = |n: usize| n as f64 / total as f64;
    let (accuracy, normalized) = (share(right), share(right_normalized));
    if args.json {
        return print_json(&serde_json::json!({
            "accuracy": accuracy,
            "accuracy_normalized": normalized,
            "questions": total,
            "kv": scorer.engine.kv().name(),
            "threads": scorer.engine.threads(),
            "isa": scorer.engine.isa().name(),
        }));
    }
    let mut out = stdout().lock();
    writeln!(out, "accuracy    {:.2} % of {total} questions", 100.0 * accuracy)?;
    writeln!(out, "normalized  {:.2} % (log-likelihood per byte)", 100.0 * normalized)?;
    Ok(())
}

/// Lines: their number, what they ask, and which choice is right.
fn read(file: &Path) -> Result<Vec<(usize, Question, usize)>> {
    let name = file.display().to_string();
    let text = read_text(File::open(file).with_context(|| format!("{name}: cannot open"))?, &name)?;
    let mut questions = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, l)| !l.trim().is_empty()) {
        let place = || format!("{name}: line {number}");
        let question: Question = serde_json::from_str(line)
            .with_context(|| format!("{}: expected question, choices and answer", place()))?;
        let right = question.right();
        let right = right.with_context(|| format!("{}: the answer is not a choice", place()))?;
        questions.push((number, question, right));
    }
    ensure!(!questions.is_empty(), "{name}: there are no questions");
    Ok(questions)
}

/// Log-probability of a choice after a question and a blank.
fn log_likelihood(scorer: &mut Scorer, question: &str, choice: &str) -> Result<f64> {
    let model = scorer.engine.model();
    let context = model.encode(question)?;
    let ids = model.encode(&format!("{question} {choice}"))?;
    let same = |a: &[u32], b: &[u32]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
    // Where the question's last characters merge with the choice's, the choice begins there. The
    // first token of all has nothing to be predicted from.
    let from = same(&context, &ids).clamp(1, ids.len().max(1));
    scorer.truncate(same(scorer.cached(), &ids).min(from - 1))?;
    let begun = scorer.cached().len();
    scorer.skip(ids.get(begun..from - 1).unwrap_or_default())?;
    let (mut sum, piece) = (0.0, scorer.engine.max_logits());
    let threads = scorer.engine.threads();
    for at in (from..ids.len()).step_by(piece) {
        let to = ids.len().min(at + piece);
        let logits = scorer.logits(&ids[at - 1..to - 1])?;
        sum -= score(logits, None, &ids[at..to], threads).iter().map(|p| p.nll).sum::<f64>();
    }
    Ok(sum)
}

/// The index of the largest, the first of equals.
fn best(x: &[f64]) -> usize {
    let better = |best, i| if x[i] > x[best] { i } else { best };
    (0..x.len()).fold(0, better)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_as_data_sets_write_them() {
        let right = |answer: &str| {
            let line = format!(r#"{{"question":"?","choices":["x","B","yes"],"answer":{answer}}}"#);
            serde_json::from_str::<Question>(&line).unwrap().right()
        };
        assert_eq!([right("2"), right(r#""yes""#), right(r#""A""#)], [Some(2), Some(2), Some(0)]);
        assert_eq!(right(r#""B""#), Some(1)); // text goes before letter, and here they agree
        assert_eq!([right("3"), right(r#""no""#), right(r#""D""#)], [None; 3]);
    }

    #[test]
    fn the_first_of_equals_is_chosen() {
        assert_eq!(
            [best(&[1.0, 3.0, 3.0]), best(&[f64::NEG_INFINITY, -2.0]), best(&[])],
            [1, 1, 0]
        );
    }
}
