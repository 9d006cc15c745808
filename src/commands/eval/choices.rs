//! Multiple-choice questions, answered by likelihood.

use std::io::{Write, stdout};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::score::score;
use super::scorer::Scorer;
use crate::args::Eval;
use crate::input::TextSource;
use crate::model;
use crate::output::print_json;
use crate::status::Reporter;
use crate::template::Form;

/// A line of the file. Other fields, such as a subject, are ignored.
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
    /// Index of the correct choice. `answer` is a zero-based index, a choice's text, or a letter (A is
    /// the first choice).
    fn correct(&self) -> Option<usize> {
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
    let model = model::open(&args.model, args.quant, &Form::default())?;
    let mut scorer = Scorer::new(model, args, true, None)?;
    let (mut correct, mut correct_normalized) = (0, 0);
    let total = questions.len() as u64;
    let mut reporter = Reporter::default();
    for (done, (line, question, answer)) in (1..).zip(&questions) {
        let context = || format!("{}: line {line}", file.display());
        let scores: Vec<f64> = question
            .choices
            .iter()
            .map(|choice| log_likelihood(&mut scorer, &question.question, choice))
            .collect::<Result<_>>()
            .with_context(context)?;
        let per_byte = |(s, c): (&f64, &String)| s / c.len().max(1) as f64;
        let normalized: Vec<f64> = scores.iter().zip(&question.choices).map(per_byte).collect();
        correct += usize::from(argmax(&scores) == *answer);
        correct_normalized += usize::from(argmax(&normalized) == *answer);
        reporter.progress(done, total);
    }
    reporter.clear();
    let share = |n: usize| n as f64 / total as f64;
    let (accuracy, normalized) = (share(correct), share(correct_normalized));
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

/// Line number, question and index of the correct choice for each non-empty line.
fn read(file: &Path) -> Result<Vec<(usize, Question, usize)>> {
    let name = file.display().to_string();
    let text = TextSource::open(file)?.read()?;
    let mut questions = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, l)| !l.trim().is_empty()) {
        let question: Question = serde_json::from_str(line).with_context(|| {
            format!("{name}: line {number}: expected question, choices and answer")
        })?;
        let correct = question.correct();
        let correct = correct.with_context(|| {
            format!("{name}: line {number}: the answer is not one of the choices")
        })?;
        questions.push((number, question, correct));
    }
    ensure!(!questions.is_empty(), "{name}: no questions");
    Ok(questions)
}

/// Log-probability of a choice after a question and a space.
fn log_likelihood(scorer: &mut Scorer, question: &str, choice: &str) -> Result<f64> {
    let model = scorer.engine.model();
    let context = model.encode(question)?;
    let ids = model.encode(&format!("{question} {choice}"))?;
    let common = |a: &[u32], b: &[u32]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
    // If a token spans the end of the question and the start of the choice, scoring starts with that
    // token. The very first token has no context from which to predict it.
    let from = common(&context, &ids).clamp(1, ids.len().max(1));
    scorer.truncate(common(scorer.cached(), &ids).min(from - 1))?;
    let cached = scorer.cached().len();
    scorer.skip(ids.get(cached..from - 1).unwrap_or_default())?;
    let (mut sum, chunk) = (0.0, scorer.engine.max_logits());
    let threads = scorer.engine.threads();
    for at in (from..ids.len()).step_by(chunk) {
        let to = ids.len().min(at + chunk);
        let logits = scorer.logits(&ids[at - 1..to - 1])?;
        sum -= score(logits, None, &ids[at..to], threads).iter().map(|p| p.nll).sum::<f64>();
    }
    Ok(sum)
}

/// Index of the largest value; in a tie, the lowest index.
fn argmax(x: &[f64]) -> usize {
    (0..x.len()).fold(0, |best, i| if x[i] > x[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_an_index_a_choice_or_a_letter() {
        let correct = |answer: &str| {
            let line = format!(r#"{{"question":"?","choices":["x","B","yes"],"answer":{answer}}}"#);
            serde_json::from_str::<Question>(&line).unwrap().correct()
        };
        assert_eq!(
            [correct("2"), correct(r#""yes""#), correct(r#""A""#)],
            [Some(2), Some(2), Some(0)]
        );
        assert_eq!(correct(r#""B""#), Some(1)); // both the text and the letter of choice 1
        assert_eq!([correct("3"), correct(r#""no""#), correct(r#""D""#)], [None; 3]);
    }

    #[test]
    fn argmax_breaks_ties_by_the_lowest_index() {
        assert_eq!(
            [argmax(&[1.0, 3.0, 3.0]), argmax(&[f64::NEG_INFINITY, -2.0]), argmax(&[])],
            [1, 1, 0]
        );
    }
}
