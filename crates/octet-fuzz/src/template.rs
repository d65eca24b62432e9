//! A chat template, compiled and rendered with chats of the usual shapes.

use octet_text::{ChatInput, ChatTemplate};
use serde_json::{Map, Value, json};

pub(crate) fn run(bytes: &[u8]) -> bool {
    let Ok(source) = std::str::from_utf8(bytes) else { return false };
    let Ok(template) = ChatTemplate::compile(source, Some("<s>"), Some("</s>")) else { return false };
    let tools = [json!({"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}})];
    let kwargs = Map::from_iter([("enable_thinking".to_owned(), json!(false))]);
    let mut is_taken = false;
    for messages in chats() {
        for (tools, continues) in [(None, false), (Some(&tools[..]), false), (None, true)] {
            let input = ChatInput {
                messages: &messages,
                tools,
                documents: None,
                add_generation_prompt: !continues,
                continue_final_message: continues,
                kwargs: &kwargs,
            };
            is_taken |= template.render(&input).is_ok();
        }
    }
    is_taken
}

fn chats() -> [Vec<Value>; 3] {
    let call =
        json!([{"id": "1", "type": "function", "function": {"name": "add", "arguments": "{\"a\": 1}"}}]);
    [
        vec![json!({"role": "user", "content": "Hi"})],
        vec![
            json!({"role": "system", "content": "Be brief."}),
            json!({"role": "user", "content": [{"type": "text", "text": "1 + 1?"}]}),
            json!({"role": "assistant", "content": null, "tool_calls": call}),
            json!({"role": "tool", "tool_call_id": "1", "content": "2"}),
            json!({"role": "assistant", "content": "2"}),
        ],
        Vec::new(),
    ]
}
