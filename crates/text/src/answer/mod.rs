//! What an answer consists of: reasoning, content and tool calls, found while it is generated.
//!
//! Models write them in formats of their own, which only their chat templates show. An [`AnswerFormat`] is
//! recognized from the template; an [`AnswerParser`] turns the tokens of one answer into events:
//!
//! ```text
//! <think>               Reasoning("It asks about the weather.")
//! It asks about …
//! </think>
//!
//! Let me look.          Content("Let me look.")
//! <tool_call>
//! {"name": "weather",   ToolCall { index: 0, name: "weather" }
//!  "arguments": {       Arguments("{") … Arguments("}")
//! …}}                   CallEnd { index: 0, complete: true }
//! </tool_call>
//! ```
//!
//! - Events depend on the answer alone, not on how it was cut: the parser works character by character, and
//!   holds text back only while it may be part of a marker, or of what precedes the name of a tool.
//! - If the vocabulary has a token for a marker, only that token is the marker. The same characters in other
//!   tokens are text.
//! - The arguments of a complete call are a JSON object. What begins like a call but is none is content.
//!
//! | module | |
//! |---|---|
//! | `format` | recognizes formats; their markers |
//! | `parser` | finds markers in the stream; reasoning and content |
//! | `section` | the part of an answer that a call marker begins: `object`, `named`, `pairs`, `elements` |
//! | `opening` | what begins calls in `pairs` and `elements` |
//! | `header` | the headers of messages in gpt-oss's format |
//! | `scan` | checks JSON, one character at a time |
//! | `tools` | the tools that can be called |
//! | `shape` | a call as text, schema, text: for grammars |
//! | `switch` | turns reasoning on and off |

mod calls;
mod elements;
mod format;
mod header;
mod named;
mod object;
mod opening;
mod pairs;
mod parser;
mod scan;
mod section;
mod shape;
mod step;
mod switch;
mod tools;

pub use calls::{Answer, AnswerEvent, AnsweredCall};
pub use format::{AnswerFormat, CallFormat};
pub use parser::AnswerParser;
pub use shape::{CallShape, Piece};
pub use tools::Tools;
