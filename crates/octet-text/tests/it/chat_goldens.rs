//! Every file in `tests/golden/chat` against what `transformers` rendered (`tools/golden/chat.py`).

use std::path::Path;

use octet_text::{ChatInput, ChatTemplate, TextError};
use serde_json::{Map, Value};

fn check(name: &str, golden: &Value) {
    let text = |key: &str| golden[key].as_str();
    let template = ChatTemplate::compile(text("template").unwrap(), text("bos_token"), text("eos_token"));
    let template = template.unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut kwargs: Map<String, Value> = golden["kwargs"].as_object().unwrap().clone();
    let tools = kwargs.remove("tools");
    let input = ChatInput {
        messages: golden["messages"].as_array().unwrap(),
        tools: tools.as_ref().map(|tools| tools.as_array().unwrap().as_slice()),
        documents: None,
        add_generation_prompt: golden["add_generation_prompt"].as_bool().unwrap(),
        continue_final_message: false,
        kwargs: &kwargs,
    };
    let rendered = template.render(&input);
    match (rendered, text("expected")) {
        (Ok(rendered), Some(expected)) => assert_eq!(rendered, expected, "{name}"),
        (Err(TextError::TemplateRaised { message }), None) => {
            assert_eq!(Some(message.as_str()), text("error"), "{name}")
        }
        (rendered, expected) => panic!("{name}: rendered {rendered:?}, expected {expected:?}"),
    }
}

#[test]
fn templates_render_as_in_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/chat");
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    assert!(!paths.is_empty(), "no goldens in {}", folder.display());
    for path in paths {
        let golden = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        check(&path.display().to_string(), &golden);
    }
}
