//! The well-known chat formats compared with what llama.cpp's `llama-chat.cpp` writes.

use std::collections::BTreeSet;

use nanoinfer_text::{ChatTemplate, Message, named_template, template_names};

/// For each format: what llama.cpp writes for `[system, user, assistant, user]` with the contents ` S `,
/// ` U `, ` A ` and `V` and the beginning of an answer, without the BOS token.
const EXPECTED: &[(&str, &str)] = &[
    (
        "bailing",
        "<role>SYSTEM</role> S <role>HUMAN</role> U <role>ASSISTANT</role> A <role>HUMAN</role>V<role>ASSISTANT</role>",
    ),
    (
        "chatglm4",
        "[gMASK]<sop><|system|>\n S <|user|>\n U <|assistant|>\n A <|user|>\nV<|assistant|>\n",
    ),
    (
        "chatml",
        "<|im_start|>system\n S <|im_end|>\n<|im_start|>user\n U <|im_end|>\n<|im_start|>assistant\n A <|im_end|>\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n",
    ),
    (
        "command-r",
        "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>S<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|USER_TOKEN|>U<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>A<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|USER_TOKEN|>V<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    ),
    (
        "deepseek",
        " S ### Instruction:\n U \n### Response:\n A \n<|EOT|>\n### Instruction:\nV\n### Response:\n",
    ),
    ("deepseek2", " S \n\nUser:  U \n\nAssistant:  A <｜end▁of▁sentence｜>User: V\n\nAssistant:"),
    (
        "deepseek3",
        " S \n\n<｜User｜> U <｜Assistant｜> A <｜end▁of▁sentence｜><｜User｜>V<｜Assistant｜>",
    ),
    (
        "exaone3",
        "[|system|]S[|endofturn|]\n[|user|]U\n[|assistant|]A[|endofturn|]\n[|user|]V\n[|assistant|]",
    ),
    (
        "exaone4",
        "[|system|]S[|endofturn|]\n[|user|]U\n[|assistant|]A[|endofturn|]\n[|user|]V\n[|assistant|]",
    ),
    ("falcon3", "<|system|>\n S \n<|user|>\n U \n<|assistant|>\n A \n<|user|>\nV\n<|assistant|>\n"),
    (
        "gemma",
        "<start_of_turn>user\nS\n\nU<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n<start_of_turn>user\nV<end_of_turn>\n<start_of_turn>model\n",
    ),
    ("glmedge", "<|system|>\n S <|user|>\n U <|assistant|>\n A <|user|>\nV<|assistant|>"),
    (
        "granite",
        "<|start_of_role|>system<|end_of_role|> S <|end_of_text|>\n<|start_of_role|>user<|end_of_role|> U <|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|> A <|end_of_text|>\n<|start_of_role|>user<|end_of_role|>V<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>\n",
    ),
    (
        "hunyuan-moe",
        "<|startoftext|> S <|extra_4|><|startoftext|> U <|extra_0|> A <|eos|><|startoftext|>V<|extra_0|>",
    ),
    (
        "kimi-k2",
        "<|im_system|>system<|im_middle|> S <|im_end|><|im_user|>user<|im_middle|> U <|im_end|><|im_assistant|>assistant<|im_middle|> A <|im_end|><|im_user|>user<|im_middle|>V<|im_end|><|im_assistant|>assistant<|im_middle|>",
    ),
    ("llama2", "[INST]  S \n U  [/INST] A </s>[INST] V [/INST]"),
    ("llama2-sys", "[INST] <<SYS>>\n S \n<</SYS>>\n\n U  [/INST] A </s>[INST] V [/INST]"),
    ("llama2-sys-bos", "[INST] <<SYS>>\n S \n<</SYS>>\n\n U  [/INST] A </s><s>[INST] V [/INST]"),
    ("llama2-sys-strip", "[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST]A</s>[INST] V [/INST]"),
    (
        "llama3",
        "<|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    (
        "llama4",
        "<|header_start|>system<|header_end|>\n\nS<|eot|><|header_start|>user<|header_end|>\n\nU<|eot|><|header_start|>assistant<|header_end|>\n\nA<|eot|><|header_start|>user<|header_end|>\n\nV<|eot|><|header_start|>assistant<|header_end|>\n\n",
    ),
    (
        "megrez",
        "<|role_start|>system<|role_end|> S <|turn_end|><|role_start|>user<|role_end|> U <|turn_end|><|role_start|>assistant<|role_end|> A <|turn_end|><|role_start|>user<|role_end|>V<|turn_end|><|role_start|>assistant<|role_end|>",
    ),
    ("mistral-v1", " [INST]  S \n\n U  [/INST]  A </s> [INST] V [/INST]"),
    ("mistral-v3", "[INST]  S \n\n U [/INST] A</s>[INST] V[/INST]"),
    ("mistral-v3-tekken", "[INST] S \n\n U [/INST] A </s>[INST]V[/INST]"),
    ("mistral-v7", "[SYSTEM_PROMPT]  S [/SYSTEM_PROMPT][INST]  U [/INST]  A </s>[INST] V[/INST]"),
    (
        "mistral-v7-tekken",
        "[SYSTEM_PROMPT] S [/SYSTEM_PROMPT][INST] U [/INST] A </s>[INST]V[/INST]",
    ),
    (
        "monarch",
        "system\n S </s>\n<s>user\n U </s>\n<s>assistant\n A </s>\n<s>user\nV</s>\n<s>assistant\n",
    ),
    (
        "openchat",
        " S <|end_of_turn|>GPT4 Correct User:  U <|end_of_turn|>GPT4 Correct Assistant:  A <|end_of_turn|>GPT4 Correct User: V<|end_of_turn|>GPT4 Correct Assistant:",
    ),
    ("orion", "Human:  S \n\n U \n\nAssistant: </s> A </s>Human: V\n\nAssistant: </s>"),
    (
        "phi3",
        "<|system|>\n S <|end|>\n<|user|>\n U <|end|>\n<|assistant|>\n A <|end|>\n<|user|>\nV<|end|>\n<|assistant|>\n",
    ),
    (
        "phi4",
        "<|im_start|>system<|im_sep|> S <|im_end|><|im_start|>user<|im_sep|> U <|im_end|><|im_start|>assistant<|im_sep|> A <|im_end|><|im_start|>user<|im_sep|>V<|im_end|><|im_start|>assistant<|im_sep|>",
    ),
    ("vicuna", " S \n\nUSER:  U \nASSISTANT:  A </s>\nUSER: V\nASSISTANT:"),
    ("vicuna-orca", "SYSTEM:  S \nUSER:  U \nASSISTANT:  A </s>\nUSER: V\nASSISTANT:"),
    (
        "zephyr",
        "<|system|>\n S <|endoftext|>\n<|user|>\n U <|endoftext|>\n<|assistant|>\n A <|endoftext|>\n<|user|>\nV<|endoftext|>\n<|assistant|>\n",
    ),
];

#[test]
fn formats_are_those_of_llama_cpp() {
    let roles = ["system", "user", "assistant", "user"];
    let contents = [" S ", " U ", " A ", "V"];
    let chat: Vec<_> = roles.into_iter().zip(contents).map(|(r, c)| Message::new(r, c)).collect();
    for (name, expected) in EXPECTED {
        let source = named_template(name).unwrap();
        for bos in ["", "<BOS>"] {
            let template = ChatTemplate::new(source, bos, "<EOS>").unwrap();
            assert!(template.has_system_role(), "{name}");
            assert_eq!(template.render(&chat, true).unwrap(), format!("{bos}{expected}"), "{name}");
        }
    }
    let names: BTreeSet<_> = template_names().collect();
    assert_eq!(names, EXPECTED.iter().map(|(name, _)| *name).collect());
    assert_eq!(named_template("nope"), None);
}
