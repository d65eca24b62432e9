//! vLLM's flags that Octet has no setting for: what each gets instead of "unknown flag". Either one line of notice, where
//! leaving it out gives the same answers, or a refusal with what to do.

mod engine;
mod server;

/// How much of the command line belongs to a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing: it is on, or off as `--no-NAME` and `--NAME=False`.
    Nothing,
    /// One value, or dotted ones: `--NAME.key value`.
    Value,
    /// Numbers, as many as follow.
    Numbers,
}

/// What a flag gets.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// A notice, whatever the value: the reason.
    Ignored(&'static str),
    /// A notice for these values: they ask for what is so anyway. Any other is refused, with the remedy.
    Only(&'static [&'static str], &'static str),
    /// A refusal, with the remedy; a switch that is off is as it is anyway.
    Refused(&'static str),
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForeignFlag {
    /// Without the hyphens.
    pub(crate) name: &'static str,
    /// Other names, as they are typed.
    pub(crate) others: &'static [&'static str],
    pub(crate) takes: Takes,
    pub(crate) answer: Answer,
}

impl ForeignFlag {
    const fn new(name: &'static str, takes: Takes, answer: Answer) -> Self {
        Self { name, others: &[], takes, answer }
    }

    /// The same with other names.
    const fn or(self, others: &'static [&'static str]) -> Self {
        Self { others, ..self }
    }
}

const fn switch(name: &'static str, answer: Answer) -> ForeignFlag {
    ForeignFlag::new(name, Takes::Nothing, answer)
}

const fn value(name: &'static str, answer: Answer) -> ForeignFlag {
    ForeignFlag::new(name, Takes::Value, answer)
}

/// A subcommand whose flags these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// Of all that load a model.
    Engine,
    /// Of `octet serve`.
    Server,
    /// Of `octet bench serve`.
    Client,
}

/// All groups, each with its flags.
pub(crate) const GROUPS: [(Group, &[ForeignFlag]); 3] =
    [(Group::Engine, engine::FLAGS), (Group::Server, server::FLAGS), (Group::Client, CLIENT)];

/// Of `octet bench serve`.
const CLIENT: &[ForeignFlag] = &[
    switch(
        "trust-remote-code",
        Answer::Ignored("no code of a model is run; tokenizers are read from tokenizer.json"),
    ),
    value("tokenizer-mode", Answer::Ignored("tokenizers are read from tokenizer.json, in no other way")),
];

/// A flag that was typed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) flag: &'static ForeignFlag,
    /// `false` as `--no-NAME`.
    pub(crate) is_on: bool,
}

/// The flag of this name, typed with its hyphens, among those of the groups.
pub(crate) fn find(typed: &str, groups: &[Group]) -> Option<Found> {
    let flags = || GROUPS.iter().filter(|(group, _)| groups.contains(group)).flat_map(|(_, flags)| *flags);
    let long = typed.strip_prefix("--");
    let named = |name: &str| flags().find(|flag| flag.name == name || flag.others.contains(&typed));
    if let Some(flag) = named(long.unwrap_or_default()) {
        return Some(Found { flag, is_on: true });
    }
    let flag = named(long?.strip_prefix("no-")?).filter(|flag| flag.takes == Takes::Nothing)?;
    Some(Found { flag, is_on: false })
}

/// What to say about a flag with this value: a notice, or a refusal.
///
/// # Errors
/// The flag asks for what Octet does not do.
pub(crate) fn answer(typed: &str, found: Found, value: Option<&str>) -> Result<String, String> {
    let is_off = found.flag.takes == Takes::Nothing && !found.is_on;
    let shown = match value {
        Some(value) if !matches!(found.flag.answer, Answer::Ignored(_)) => format!("{typed} {value}"),
        _ => typed.to_owned(),
    };
    match found.flag.answer {
        Answer::Ignored(reason) => Ok(format!("{typed} changes nothing: {reason}")),
        Answer::Only(values, _) if value.is_some_and(|value| is_among(value, values)) => {
            Ok(format!("{shown} changes nothing: it is always so"))
        }
        Answer::Refused(_) if is_off => Ok(format!("{typed} changes nothing: it is always so")),
        Answer::Only(_, remedy) | Answer::Refused(remedy) => Err(format!("{shown}: {remedy}")),
    }
}

fn is_among(value: &str, values: &[&str]) -> bool {
    let value = value.trim();
    values.iter().any(|known| known.eq_ignore_ascii_case(value))
        || value.parse::<f64>().is_ok_and(|number| values.iter().any(|known| known.parse() == Ok(number)))
}
