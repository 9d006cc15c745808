//! What an answer must follow: a schema or grammar, or the form of calls.

use nanoinfer_engine::Constraint;
use nanoinfer_grammar::{Place, Reasoning, Source};
use nanoinfer_text::{AnswerFormat, CallShape, Tools};

use super::ask::{Structure, ToolChoice, Toolbox};
use super::model::ServedModel;
use crate::problem::Problem;

type Restriction = Option<Box<dyn Constraint>>;

/// The constraint that a structure demands of the answer to a conversation.
pub(crate) fn structured(
    served: &ServedModel,
    structure: &Structure,
    prompt: Option<&str>,
) -> Result<Box<dyn Constraint>, Problem> {
    let grammar = served.grammars.compile(&structure.source);
    let grammar = grammar.map_err(|e| Problem::grammar(structure.field, &e))?;
    let Some(prompt) = prompt else { return Ok(grammar.constraint(false)) };
    let reasoning = reasoning(served.format(), prompt).ok_or_else(|| {
        let what = "the end of this model's reasoning is not a token, so nothing can be required of \
                    what follows";
        Problem::field(structure.field, what)
    })?;
    Ok(grammar.constraint_at(Place { reasoning, marker: None }))
}

/// The constraint that makes calls well-formed, and required if they are.
pub(crate) fn called(
    served: &ServedModel,
    toolbox: &Toolbox,
    tools: &Tools,
    prompt: &str,
) -> Result<Restriction, Problem> {
    let format = served.format();
    let is_required = toolbox.choice != ToolChoice::Auto;
    let calls = |tools: &Tools| calls(format, tools, toolbox);
    let (Some(mut found), Some(reasoning)) = (calls(tools), reasoning(format, prompt)) else {
        let what = "calls cannot be required of this model, because of the format in which it writes \
                    them; use auto";
        return if is_required { Err(Problem::field("tool_choice", what)) } else { Ok(None) };
    };
    let mut marker = None;
    if !is_required {
        // Until a token begins a call, the answer is free. Without such a token, all of it is.
        marker = common_marker(&found);
        if marker.is_none() {
            return Ok(None);
        }
        without_marker(&mut found);
    }
    let grammars = &served.grammars;
    let grammar = match grammars.compile(&Source::Calls(found)) {
        Err(error) if is_required => return Err(Problem::grammar("tools", &error)),
        // A call is optional, and so is what its schema says; but the arguments remain an object.
        Err(_) => {
            let mut found = calls(&tools.without_parameters()).unwrap_or_default();
            without_marker(&mut found);
            match grammars.compile(&Source::Calls(found)) {
                Ok(grammar) => grammar,
                Err(_) => return Ok(None), // the vocabulary cannot be used, or there are too many tools
            }
        }
        Ok(grammar) => grammar,
    };
    Ok(Some(grammar.constraint_at(Place { reasoning, marker })))
}

/// The reasoning before the answer to a prompt; `None` if its end is not a token.
fn reasoning(format: &AnswerFormat, prompt: &str) -> Option<Reasoning> {
    // The reasoning of gpt-oss is a message of its own, after which others may follow.
    if !format.has_reasoning() || format.begins_after_reasoning(prompt) {
        return Some(Reasoning::Absent);
    }
    let (begin, end) = format.reasoning_tokens()?;
    Some(match format.begins_in_reasoning(prompt) {
        true => Reasoning::Begun { end },
        false => Reasoning::Possible { begin, end },
    })
}

/// What the calls that are allowed look like.
fn calls(format: &AnswerFormat, tools: &Tools, toolbox: &Toolbox) -> Option<Vec<CallShape>> {
    let mut calls = format.call_shapes(tools)?;
    if let ToolChoice::Named(name) = &toolbox.choice {
        calls.retain(|call| call.name == *name);
    }
    if !toolbox.parallel {
        calls.iter_mut().for_each(|call| call.next.clear());
    }
    Some(calls)
}

/// The token with which all calls begin.
fn common_marker(calls: &[CallShape]) -> Option<u32> {
    let marker = |call: &CallShape| call.begin.first()?.token;
    let first = marker(calls.first()?)?;
    calls.iter().all(|call| marker(call) == Some(first)).then_some(first)
}

fn without_marker(calls: &mut [CallShape]) {
    calls.iter_mut().filter(|call| !call.begin.is_empty()).for_each(|call| {
        call.begin.remove(0);
    });
}
