//! Templates are programs: what one may do is bounded, and what real ones need is far below.

use std::path::Path;

use octet_text::{ChatInput, ChatTemplate, TextError};
use serde_json::{Map, Value, json};

fn render(source: &str, messages: &[Value]) -> Result<String, TextError> {
    ChatTemplate::compile(source, Some("<s>"), Some("</s>"))?.render(&ChatInput {
        messages,
        tools: None,
        documents: None,
        add_generation_prompt: true,
        continue_final_message: false,
        kwargs: &Map::new(),
    })
}

fn is_exhausted(source: &str) {
    let error = render(source, &[json!({"role": "user", "content": "hello"})]).unwrap_err();
    assert!(matches!(error, TextError::TemplateExhausted), "{source}: {error}");
    assert!(error.is_request_error());
}

#[test]
fn loops_and_giant_texts_end_in_an_error() {
    for source in [
        "{% for a in range(90000) %}{% for b in range(90000) %}{{ b }}{% endfor %}{% endfor %}",
        "{% for a in range(90000) %}{% for b in range(90000) %}{% set c = b %}{% endfor %}{% endfor %}",
        "{% set n = namespace(t='x') %}{% for i in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t }}",
        "{% set n = namespace(t='x') %}{% for i in range(60) %}{% set n.t = n.t.replace('x', 'xxxx') %}{% endfor %}",
        "{% set n = namespace(t=['x']) %}{% for i in range(60) %}{% set n.t = [n.t, n.t] %}{% endfor %}{{ n.t | tojson }}",
        "{% set n = namespace(t=['x']) %}{% for i in range(60) %}{% set n.t = [n.t, n.t] %}{% endfor %}{{ n.t }}",
        "{{ ['x'] | tojson(indent=99999999999) }}",
        "{{ 'x' | indent(99999999999, true) }}",
        "{{ ('x\n' * 10000) | indent(1000000, true) }}",
        "{% set n = namespace(t='x') %}{% for i in range(60) %}{% set n.t %}{{ n.t }}{{ n.t }}{% endset %}{% endfor %}",
        "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}{% set n = namespace(t='x') %}{% for i in range(60) %}{% set n.t = m(n.t) %}{% endfor %}",
    ] {
        is_exhausted(source);
    }
}

#[test]
fn nesting_without_end_is_an_error() {
    let on_a_small_stack = |source: String| {
        // As small as the stacks of the threads that render requests.
        let thread = std::thread::Builder::new().stack_size(2 << 20);
        let render = move || render(&source, &[json!({"role": "user", "content": "hello"})]);
        thread.spawn(render).unwrap().join().unwrap()
    };
    let recursive = "{% macro m(x) %}{{ m(x + 1) }}{% endmacro %}{{ m(0) }}";
    let mutual = "{% macro a(x) %}{% if x %}{% for i in [1] %}{{ b(x) }}{% endfor %}{% endif %}{% endmacro %}\
                  {% macro b(x) %}{% set y %}{{ a(x) }}{% endset %}{{ y }}{% endmacro %}{{ a(1) }}";
    let looped = "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}";
    for source in [recursive.to_owned(), mutual.to_owned(), looped.to_owned()] {
        assert!(on_a_small_stack(source).is_err());
    }
    for source in [
        format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000)),
        format!("{{{{ {}1{} }}}}", "[".repeat(100_000), "]".repeat(100_000)),
        format!("{{{{ {}1 }}}}", "not ".repeat(100_000)),
        format!("{{{{ {}1 }}}}", "-".repeat(100_000)),
        "{% if true %}".repeat(50_000),
        "{% for x in [1] %}".repeat(50_000),
        format!("{{{{ 1{} }}}}", "|string".repeat(100_000)),
        format!("{{{{ x{} }}}}", ".a".repeat(100_000)),
        format!("{{{{ 1{} }}}}", " + 1".repeat(100_000)),
        format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(50_000)),
        "{%".repeat(500_000),
        "x".repeat((1 << 20) + 1),
        format!("{{% if 1 %}}{}{{% endif %}}", "{% elif 1 %}".repeat(20_000)),
        format!("{{% set x = {}1{} %}}", "[".repeat(900), "]".repeat(900)),
        format!("{{{{ {}1 }}}}", "not ".repeat(1900)),
        format!("{{{{ {}1 }}}}", "-".repeat(1900)),
        format!("{{{{ x{} }}}}", "|d".repeat(900)),
    ] {
        // Some are an error and some are not; none may end the process.
        let _ = on_a_small_stack(source);
    }

    let deep = "{% set n = namespace(t=[]) %}{% for j in range(9) %}{% for i in range(40000) %}{% set n.t = [n.t] %}\
                {% endfor %}{% endfor %}";
    let _ = on_a_small_stack(deep.to_owned());
    let _ = on_a_small_stack(deep.to_owned() + "{{ n.t | tojson }}");
    let _ = on_a_small_stack(deep.to_owned() + "{{ n.t }}");
}

#[test]
fn a_thousand_long_messages_are_within_the_limits_of_every_template() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/chat");
    let text = "A sentence of some words, as people write them. ".repeat(42);
    let mut messages = Vec::new();
    for _ in 0..500 {
        messages.push(json!({"role": "user", "content": text}));
        messages.push(json!({"role": "assistant", "content": format!("<think>\nwell\n</think>\n\n{text}")}));
    }
    messages.push(json!({"role": "user", "content": text}));
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let golden: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let prompt = render(golden["template"].as_str().unwrap(), &messages);
        // One template is there for its features and writes only lists.
        let is_long = prompt.unwrap_or_else(|error| panic!("{}: {error}", path.display())).len() > 1_900_000;
        assert!(is_long || path.to_string_lossy().contains("features"), "{}", path.display());
    }
}
