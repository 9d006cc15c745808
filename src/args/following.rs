//! Options that determine what an answer must follow.

use std::path::PathBuf;

use clap::Args;

/// What the answer must follow.
#[derive(Args)]
pub(crate) struct FollowArgs {
    /// File with a JSON schema that the answer must follow: it is JSON, has the properties in the order
    /// in which the schema lists them, and ends when it is complete. A schema with a keyword that
    /// cannot be enforced, such as not or uniqueItems, is an error
    #[arg(long, value_name = "FILE", conflicts_with = "think")]
    pub(crate) json_schema: Option<PathBuf>,
    /// File with a grammar that the answer must follow: llama.cpp's GBNF (`root ::= "yes" | "no"`), or
    /// llguidance's Lark (`start: "yes" | "no"`)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json_schema", "think"])]
    pub(crate) grammar: Option<PathBuf>,
}
