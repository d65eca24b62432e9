//! Chat templates beyond the goldens: content formats, continuation, errors, Python's ways.

use octet_text::{ChatInput, ChatTemplate, ContentFormat, TextError};
use serde_json::{Map, Value, json};

const STRINGS: &str = "{% for message in messages %}<{{ message.role }}>{{ message['content'] }}{% endfor %}";
const PARTS: &str = "{% for message in messages %}<{{ message.role }}>\
    {% for part in message['content'] %}{{ part.text }}{% endfor %}{% endfor %}";
const BOTH: &str = "{% for message in messages %}<{{ message.role }}>\
    {% if message.content is string %}{{ message.content }}{% else %}\
    {% for part in message['content'] %}{{ part.text }}{% endfor %}{% endif %}{% endfor %}";

fn compile(source: &str) -> ChatTemplate {
    ChatTemplate::compile(source, Some("<s>"), None).unwrap()
}

fn render_with(template: &ChatTemplate, messages: &Value, kwargs: &Value) -> Result<String, TextError> {
    template.render(&ChatInput {
        messages: messages.as_array().unwrap(),
        tools: None,
        documents: None,
        add_generation_prompt: false,
        continue_final_message: false,
        kwargs: kwargs.as_object().unwrap(),
    })
}

/// Renders an expression over the variable `x`.
fn expression(source: &str, x: &Value) -> Result<String, TextError> {
    render_with(&compile(source), &json!([]), &json!({"x": x}))
}

#[test]
fn content_takes_the_form_that_the_template_knows() {
    let messages = json!([
        {"role": "system", "content": "one"},
        {"role": "user", "content": [{"type": "text", "text": "two"}, {"type": "text", "text": "three"}]}
    ]);
    for (source, format, expected) in [
        (STRINGS, ContentFormat::String, "<system>one<user>two\nthree"),
        (PARTS, ContentFormat::OpenAi, "<system>one<user>twothree"),
        (BOTH, ContentFormat::OpenAi, "<system>one<user>twothree"),
    ] {
        let template = compile(source);
        assert_eq!(template.content_format(), format, "{source}");
        assert_eq!(render_with(&template, &messages, &json!({})).unwrap(), expected);
    }
    let forced = compile(BOTH).with_content_format(ContentFormat::String);
    assert_eq!(render_with(&forced, &messages, &json!({})).unwrap(), "<system>one<user>two\nthree");
}

#[test]
fn a_template_that_wants_a_system_message_first_is_probed_with_one() {
    let strict = "{% if messages[0].role != 'system' %}{{ raise_exception('no system') }}{% endif %}"
        .to_owned()
        + PARTS;
    assert_eq!(compile(&strict).content_format(), ContentFormat::OpenAi);
    assert_eq!(compile("{{ raise_exception('never') }}").content_format(), ContentFormat::String);
}

#[test]
fn parts_that_are_not_text_are_refused_by_templates_for_strings() {
    let messages = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]);
    let error = render_with(&compile(STRINGS), &messages, &json!({})).unwrap_err();
    assert!(error.to_string().contains("image_url") && error.is_request_error(), "{error}");
}

fn continued(source: &str, messages: &Value) -> Result<String, TextError> {
    compile(source).render(&ChatInput {
        messages: messages.as_array().unwrap(),
        tools: None,
        documents: None,
        add_generation_prompt: false,
        continue_final_message: true,
        kwargs: &Map::new(),
    })
}

#[test]
fn the_final_message_is_left_open() {
    let closing = "{% for m in messages %}[{{ m.role }}]{{ m.content }}[/]{% endfor %}\nend";
    let trimming = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}[/]{% endfor %}";
    let messages = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Well, "}]);
    assert_eq!(continued(closing, &messages).unwrap(), "[user]hi[/][assistant]Well, ");
    assert_eq!(continued(trimming, &messages).unwrap(), "[user]hi[/][assistant]Well,");
    let parts = json!([{"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]);
    assert_eq!(continued(BOTH, &parts).unwrap(), "<assistant>ab");
    for (source, messages) in [
        ("{{ messages[0].content }}", &messages),
        (closing, &json!([])),
        (closing, &json!([{"role": "assistant", "content": null}])),
    ] {
        let error = continued(source, messages).unwrap_err();
        assert!(matches!(error, TextError::CannotContinue { .. }) && error.is_request_error(), "{error}");
    }
}

#[test]
fn errors_say_where_and_whose_fault() {
    let error = ChatTemplate::compile("fine\n{% if %}", None, None).unwrap_err();
    assert!(
        matches!(error, TextError::TemplateSyntax { line: 2, .. }) && !error.is_request_error(),
        "{error}"
    );
    let error = expression("{{ raise_exception('roles must alternate') }}", &Value::Null).unwrap_err();
    assert!(
        matches!(&error, TextError::TemplateRaised { message } if message == "roles must alternate"),
        "{error}"
    );
    let error = expression("one\n{{ x.missing.deeper }}", &json!({})).unwrap_err();
    assert!(error.to_string().contains("line 2") && error.is_request_error(), "{error}");
    let nested =
        "{% macro m() %}{{ raise_exception('inside') }}{% endmacro %}{% for i in [1] %}{{ m() }}{% endfor %}";
    assert_eq!(expression(nested, &Value::Null).unwrap_err().to_string(), "inside");
}

#[test]
fn json_is_written_as_python_writes_it() {
    let value = json!({"b": "é<\"\u{7f}\n", "a": [1, 2.5, 1e-5, true, null, {}, []]});
    for (source, expected) in [
        (
            "{{ x | tojson }}",
            r#"{"b": "é<\"DEL\n", "a": [1, 2.5, 1e-05, true, null, {}, []]}"#.replace("DEL", "\u{7f}"),
        ),
        ("{{ x.b | tojson(ensure_ascii=true) }}", r#""\u00e9<\"\u007f\n""#.to_owned()),
        (
            "{{ x | tojson(separators=(',', ':'), sort_keys=true) }}",
            "{\"a\":[1,2.5,1e-05,true,null,{},[]],\"b\":\"é<\\\"\u{7f}\\n\"}".to_owned(),
        ),
        ("{{ {'k': [1, {}]} | tojson(indent=2) }}", "{\n  \"k\": [\n    1,\n    {}\n  ]\n}".to_owned()),
        ("{{ '🙂' | tojson(ensure_ascii=true) }}", "\"\\ud83d\\ude42\"".to_owned()),
    ] {
        assert_eq!(expression(source, &value).unwrap(), expected, "{source}");
    }
    assert!(expression("{{ missing | tojson }}", &value).is_err());
}

#[test]
fn blocks_trim_lines_and_generation_tags_vanish() {
    let source = "a\n  {% if true %}\nb\n  {% endif %}\n{%- generation -%}\n c \n{% endgeneration %}\nd\n";
    assert_eq!(expression(source, &Value::Null).unwrap(), "a\nb\nc \nd");
    let loops = "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}";
    assert_eq!(expression(loops, &Value::Null).unwrap(), "023");
}

#[test]
fn filters_and_tests_are_those_of_jinja() {
    for (source, expected) in [
        (
            "{{ none is iterable }} {{ missing is iterable }} {{ 'a' is iterable }} {{ 3 is iterable }}",
            "False True True False",
        ),
        (
            "{{ 'a' is sequence }} {{ {} is sequence }} {{ [] is sequence }} {{ none is sequence }}",
            "True True True False",
        ),
        ("{{ '{\n' | indent(2, first=true) }}x{{ 'a\n\nb\n' | indent }}|", "  {\nxa\n\n    b\n|"),
        ("{{ 'a\n\nb' | indent('> ', true, true) }}", "> a\n> \n> b"),
        ("{{ 'x' | float }} {{ 'x' | float(2) }} {{ '2.5' | float }} {{ true | float }}", "0.0 2 2.5 1.0"),
        (
            "{{ 0 | default('a', boolean=true) }} {{ 0 | d('a') }} {{ missing | default }}|{{ missing | d('b') }}",
            "a 0 |b",
        ),
        ("{{ 'é' | tojson(true) }} {{ [1] | tojson(false, 2) }}", "\"\\u00e9\" [\n  1\n]"),
        ("{% set j = joiner(', ') %}{% for i in [1, 2] %}{{ j() }}{{ i }}{% endfor %}", "1, 2"),
        ("a\r\n{% if true %}\r\nb\r{% endif %}\r\n", "a\nb\n"),
    ] {
        assert_eq!(expression(source, &Value::Null).unwrap(), expected, "{source}");
    }
}

#[test]
fn strings_have_the_methods_of_python() {
    for (source, expected) in [
        ("{{ x.strip().upper() }}", "A-B-C"),
        ("{{ x.strip().split('-')[-1] }}", "c"),
        ("{{ x.strip().removeprefix('a-').removesuffix('-c') }}", "b"),
        ("{{ x.strip().partition('-')[2] }} {{ x.strip().rpartition('-')[0] }}", "b-c a-b"),
        ("{{ x.strip()[::-1] }} {{ x is string }} {{ none }}", "c-b-a True None"),
        ("{{ {'k': 1}.get('q', 'default') }}", "default"),
        ("{{ x.strip().rsplit('-', 1) }} {{ x.strip().rsplit('-') }}", "['a-b', 'c'] ['a', 'b', 'c']"),
        (
            "{{ x.index('-') }} {{ [3, 4].index(4) }} {{ {'k': 1}.copy() }} {{ [1].copy() }}",
            "2 1 {'k': 1} [1]",
        ),
    ] {
        assert_eq!(expression(source, &json!(" a-b-c ")).unwrap(), expected, "{source}");
    }
}

#[test]
fn today_is_a_date() {
    let date = expression("{{ strftime_now('%Y-%m-%d') }}", &Value::Null).unwrap();
    assert!(date.len() == 10 && date.starts_with("20") && date.matches('-').count() == 2, "{date}");
    assert!(expression("{{ strftime_now('%') }}", &Value::Null).is_err());
}

#[test]
fn keyword_arguments_win_over_variables() {
    let template =
        compile("{{ add_generation_prompt }} {{ bos_token }} {{ eos_token is defined }} {{ thinking }}");
    let kwargs = json!({"add_generation_prompt": true, "thinking": false});
    assert_eq!(render_with(&template, &json!([]), &kwargs).unwrap(), "True <s> False False");
}

#[test]
fn what_a_developer_says_is_never_lost() {
    let messages = json!([
        {"role": "developer", "content": [{"type": "text", "text": "be"}, {"type": "text", "text": "brief"}]},
        {"role": "user", "content": "hi"},
        {"role": "system", "content": "and kind"},
        {"role": "assistant", "content": "hello"},
    ]);
    let only_first = "{% if messages[1:] | selectattr('role', 'equalto', 'system') | list %}\
                      {{ raise_exception('system comes first') }}{% endif %}"
        .to_owned()
        + STRINGS;
    let by_role = "{% for m in messages %}{% if m.role == 'system' %}S:{{ m.content }}{% elif m.role == 'user' %}\
                   U:{{ m.content }}{% elif m.role == 'assistant' %}A:{{ m.content }}{% endif %}{% endfor %}";
    let refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        .to_owned()
        + STRINGS;
    let knowing =
        "{% for m in messages %}{% if m.role == 'developer' %}D:{% endif %}{{ m.content }}{% endfor %}";
    for (source, expected) in [
        (STRINGS, "<system>be\nbrief\n\nand kind<user>hi<assistant>hello"),
        (&only_first, "<system>be\nbrief\n\nand kind<user>hi<assistant>hello"),
        (PARTS, "<system>be\nbrief\n\nand kind<user>hi<assistant>hello"),
        (by_role, "S:be\nbrief\n\nand kindU:hiA:hello"),
        (&refusing, "<user>be\nbrief\n\nand kind\n\nhi<assistant>hello"),
        (knowing, "D:be\nbriefhiand kindhello"),
    ] {
        assert_eq!(render_with(&compile(source), &messages, &json!({})).unwrap(), expected, "{source}");
    }
}

#[test]
fn results_of_tools_come_as_text_even_to_templates_for_parts() {
    let both = "{% for m in messages %}{% if m.role == 'tool' %}{{ m.content }}{% else %}\
                {% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}{% endfor %}";
    let messages = json!([{"role": "user", "content": "hi "}, {"role": "tool", "content": "sunny"}]);
    assert_eq!(render_with(&compile(both), &messages, &json!({})).unwrap(), "hi sunny");
}
