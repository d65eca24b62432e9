//! From the words of a shell, and of a `--config` file, to those that the definition of the flags is asked about: both
//! spellings of a name, `--no-` and `=False` of every switch, dotted JSON, empty values, and flags of vLLM's that Octet
//! has no setting for.

use std::collections::HashSet;
use std::ffi::OsString;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::vec::IntoIter;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command, Error};
use serde_json::{Map, Value};

use super::config_file;
use super::foreign::{self, Found, Group, Takes};

/// Flags for which an empty value must not mean "not given": that would open what the user meant to close, or serve
/// another model.
const NEVER_EMPTY: [&str; 8] = [
    "api-key",
    "allowed-headers",
    "allowed-methods",
    "allowed-origins",
    "model",
    "ssl-ca-certs",
    "ssl-certfile",
    "ssl-keyfile",
];

/// Flags that give strangers more: none is ever suggested for a flag that was mistyped.
const NEVER_SUGGESTED: [&str; 4] =
    ["allow-credentials", "insecure", "trust-request-chat-template", "enable-log-outputs"];

/// Words for the definition, and what to tell the user.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) arguments: Vec<OsString>,
    pub(super) notices: Vec<String>,
}

/// Reads a command line. A line without a subcommand is left as it is.
///
/// # Errors
/// A flag that is unknown, refused or lacks its value; a word too many; a config file that is wrong.
pub(super) fn read(mut definition: Command, line: Vec<OsString>) -> Result<Read, Error> {
    definition.build();
    let mut command = &definition;
    let mut path = Vec::new();
    for word in line.iter().skip(1) {
        match word.to_str().and_then(|name| command.find_subcommand(name)) {
            Some(inner) => {
                path.push(inner.get_name().to_owned());
                command = inner;
            }
            None => break,
        }
    }
    if path.is_empty() || command.has_subcommands() {
        return Ok(Read { arguments: line, notices: Vec::new() });
    }
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let groups: &[Group] = match path[..] {
        ["serve"] => &[Group::Engine, Group::Server],
        ["bench", "serve"] => &[Group::Client],
        ["devices" | "selftest"] => &[],
        _ => &[Group::Engine],
    };
    let reader = Reader::new(command, groups);
    let mut read = reader.read(line[1 + path.len()..].to_vec())?;
    read.arguments.splice(0..0, line[..1 + path.len()].iter().cloned());
    Ok(read)
}

/// One flag as the definition is told about it.
struct Given {
    /// The definition's own id of it.
    id: String,
    words: Vec<OsString>,
}

/// One of vLLM's flags: the last of a name counts.
struct GivenForeign {
    typed: String,
    found: Found,
    value: Option<String>,
    origin: Option<String>,
}

type Words = Peekable<IntoIter<OsString>>;

struct Reader<'a> {
    command: &'a Command,
    groups: &'a [Group],
    given: Vec<Given>,
    foreign: Vec<GivenForeign>,
    dotted: Vec<(String, Map<String, Value>)>,
    notices: Vec<String>,
    /// The flag before the word at hand, for messages.
    last_flag: Option<String>,
    has_positional: bool,
    config: Option<PathBuf>,
    /// Where a flag stands, if not on the command line.
    origin: Option<String>,
}

impl<'a> Reader<'a> {
    fn new(command: &'a Command, groups: &'a [Group]) -> Self {
        Self {
            command,
            groups,
            given: Vec::new(),
            foreign: Vec::new(),
            dotted: Vec::new(),
            notices: Vec::new(),
            last_flag: None,
            has_positional: false,
            config: None,
            origin: None,
        }
    }

    fn read(mut self, words: Vec<OsString>) -> Result<Read, Error> {
        let mut words = words.into_iter().peekable();
        while let Some(word) = words.next() {
            match word.to_str() {
                Some("--") => {
                    self.push("--", vec![word]);
                    self.given
                        .extend(words.by_ref().map(|word| Given { id: String::new(), words: vec![word] }));
                }
                Some(text) if is_flag(text) => self.flag(text, &mut words)?,
                _ => self.bare(word)?,
            }
        }
        if let Some(path) = self.config.take() {
            self.config_file(&path)?;
        }
        self.answer_foreign()?;
        for (name, object) in std::mem::take(&mut self.dotted) {
            if self.given.iter().any(|given| given.id == name.replace('-', "_")) {
                let message = format!(
                    "--{name} is given whole and key by key (--{name}.KEY): one would replace the other, so write all keys in \
                     one of the two forms"
                );
                return Err(self.error(ErrorKind::ArgumentConflict, &message));
            }
            self.push(&name, vec![format!("--{name}={}", Value::Object(object)).into()]);
        }
        let arguments = self.given.into_iter().flat_map(|given| given.words).collect();
        Ok(Read { arguments, notices: self.notices })
    }

    /// One flag with its values.
    fn flag(&mut self, word: &str, words: &mut Words) -> Result<(), Error> {
        let (typed, attached) = split(word);
        self.last_flag = Some(typed.clone());
        let (base, path) = match typed.split_once('.') {
            Some((base, path)) => (base.to_owned(), Some(path.to_owned())),
            None => (typed.clone(), None),
        };
        if base == "--config" && self.command.get_arguments().any(|it| it.get_long() == Some("config")) {
            let value = self.value(&typed, attached, words, false)?;
            if self.config.replace(PathBuf::from(value)).is_some() {
                return Err(self.error(ErrorKind::ArgumentConflict, "--config is given twice: name one file"));
            }
            return Ok(());
        }
        if let Some(argument) = self.ours(&base) {
            return self.our_flag((&base, path.as_deref()), argument, attached, words);
        }
        if let Some(argument) = base.strip_prefix("--no-").and_then(|name| self.ours(&format!("--{name}")))
            && is_switch(argument)
        {
            let is_off = self.switched(&typed, attached.as_deref())?;
            self.switch(argument, !is_off);
            return Ok(());
        }
        match foreign::find(&base, self.groups) {
            Some(found) => self.foreign_flag(&base, found, path.is_some(), attached, words),
            None => Err(self.unknown(&base)),
        }
    }

    /// The flag of this name that the definition has; a single letter too.
    fn ours(&self, typed: &str) -> Option<&'a Arg> {
        let long = typed.strip_prefix("--");
        let short = typed.strip_prefix('-').filter(|rest| long.is_none() && rest.chars().count() == 1);
        self.command.get_arguments().find(|argument| {
            let aliases = argument.get_all_aliases().unwrap_or_default();
            long.is_some_and(|name| argument.get_long() == Some(name) || aliases.contains(&name))
                || short.is_some_and(|letter| argument.get_short() == letter.chars().next())
        })
    }

    fn our_flag(
        &mut self,
        (typed, path): (&str, Option<&str>),
        argument: &Arg,
        attached: Option<String>,
        words: &mut Words,
    ) -> Result<(), Error> {
        if is_switch(argument) {
            if let Some(path) = path {
                let message = format!("{typed}.{path}: {typed} is on or off, and has no keys");
                return Err(self.error(ErrorKind::UnknownArgument, &message));
            }
            let is_on = self.switched(typed, attached.as_deref())?;
            self.switch(argument, is_on);
            return Ok(());
        }
        let id = argument.get_id().as_str().to_owned();
        let range = argument.get_num_args().unwrap_or_default();
        if !argument.get_action().takes_values() || range.min_values() == 0 {
            // Help, and flags that the definition refuses whatever follows.
            self.push(
                &id,
                vec![attached.map_or(typed.to_owned(), |value| format!("{typed}={value}")).into()],
            );
            return Ok(());
        }
        let name = argument.get_long().unwrap_or(typed.trim_start_matches('-')).to_owned();
        let value = self.value(typed, attached, words, argument.is_allow_hyphen_values_set())?;
        if let Some(path) = path {
            return self.dotted(&name, path, &value);
        }
        if value.trim().is_empty() {
            if NEVER_EMPTY.contains(&name.as_str()) {
                let message = format!("--{name} must not be empty: leave it out if it is not wanted");
                return Err(self.error(ErrorKind::InvalidValue, &message));
            }
            self.notice(&format!("--{name} is empty: as if it were not given"));
            if !is_repeatable(argument) {
                self.given.retain(|given| given.id != id);
            }
            return Ok(());
        }
        if range.max_values() == 1 {
            self.push(&id, vec![format!("--{name}={value}").into()]);
            return Ok(());
        }
        let mut given = vec![OsString::from(format!("--{name}")), value.into()];
        let is_value = |word: &OsString| word.to_str().is_some_and(|it| !is_flag(it));
        given.extend(std::iter::from_fn(|| words.next_if(is_value)));
        self.push(&id, given);
        Ok(())
    }

    /// Turns a switch on or off; the last word about it counts.
    fn switch(&mut self, argument: &Arg, is_on: bool) {
        let name = argument.get_long().unwrap_or_default();
        let id = argument.get_id().as_str().to_owned();
        let opposite = name.strip_prefix("no-").map_or_else(|| format!("no-{name}"), str::to_owned);
        let opposite = self.ours(&format!("--{opposite}"));
        self.given
            .retain(|given| given.id != id && opposite.is_none_or(|it| given.id != it.get_id().as_str()));
        let word = |argument: &Arg| OsString::from(format!("--{}", argument.get_long().unwrap_or_default()));
        match opposite {
            _ if is_on => self.push(&id, vec![word(argument)]),
            Some(opposite) => self.push(opposite.get_id().as_str(), vec![word(opposite)]),
            None => self.push(&id, Vec::new()),
        }
    }

    /// What stands behind a switch's `=`; on without one.
    fn switched(&self, typed: &str, attached: Option<&str>) -> Result<bool, Error> {
        match attached.map(str::to_ascii_lowercase).as_deref() {
            None | Some("true" | "1" | "yes" | "on") => Ok(true),
            Some("false" | "0" | "no" | "off") => Ok(false),
            Some(value) => {
                let message = format!("{typed}={value}: it is on or off, so expected True or False");
                Err(self.error(ErrorKind::InvalidValue, &message))
            }
        }
    }

    fn dotted(&mut self, name: &str, path: &str, value: &str) -> Result<(), Error> {
        let (path, value) = match path.strip_suffix('+') {
            Some(path) => (path, Value::from(value.split(',').map(str::to_owned).collect::<Vec<_>>())),
            None => (path, serde_json::from_str(value).unwrap_or_else(|_| Value::from(value))),
        };
        let index = self.dotted.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            self.dotted.push((name.to_owned(), Map::new()));
            self.dotted.len() - 1
        });
        let mut object = &mut self.dotted[index].1;
        let mut keys: Vec<&str> = path.split('.').collect();
        let last = keys.pop().unwrap_or_default();
        for key in keys {
            let inner = object.entry(key).or_insert_with(|| Value::Object(Map::new()));
            match inner.as_object_mut() {
                Some(inner) => object = inner,
                None => {
                    let message = format!("--{name}.{path}: {key} is a value already");
                    return Err(self.error(ErrorKind::InvalidValue, &message));
                }
            }
        }
        object.insert(last.to_owned(), value);
        Ok(())
    }

    fn foreign_flag(
        &mut self,
        typed: &str,
        mut found: Found,
        is_dotted: bool,
        attached: Option<String>,
        words: &mut Words,
    ) -> Result<(), Error> {
        let value = match found.flag.takes {
            Takes::Nothing => {
                found.is_on &= self.switched(typed, attached.as_deref())?;
                None
            }
            Takes::Value => Some(self.value(typed, attached, words, false)?),
            Takes::Numbers => {
                let value = self.value(typed, attached, words, false)?;
                let is_number = |word: &OsString| word.to_str().is_some_and(|it| it.parse::<f64>().is_ok());
                while words.next_if(is_number).is_some() {}
                Some(value)
            }
        };
        if value.as_deref().is_some_and(|value| value.trim().is_empty()) && !is_dotted {
            self.notice(&format!("{typed} is empty: as if it were not given"));
            self.foreign.retain(|given| given.found.flag.name != found.flag.name);
            return Ok(());
        }
        self.foreign.retain(|given| given.found.flag.name != found.flag.name);
        self.foreign.push(GivenForeign {
            typed: typed.to_owned(),
            found,
            value,
            origin: self.origin.clone(),
        });
        Ok(())
    }

    /// Notices of vLLM's flags, or one error that names all that are refused.
    fn answer_foreign(&mut self) -> Result<(), Error> {
        let mut refused = Vec::new();
        for given in std::mem::take(&mut self.foreign) {
            let at = given.origin.map_or_else(String::new, |origin| format!("{origin}: "));
            match foreign::answer(&given.typed, given.found, given.value.as_deref()) {
                Ok(notice) => self.notices.push(format!("{at}{notice}")),
                Err(reason) => refused.push(format!("{at}{reason}")),
            }
        }
        if refused.is_empty() {
            return Ok(());
        }
        self.origin = None;
        Err(self.error(ErrorKind::InvalidValue, &refused.join("\n       ")))
    }

    /// A word that belongs to no flag.
    fn bare(&mut self, word: OsString) -> Result<(), Error> {
        let Some(positional) = self.command.get_positionals().next() else {
            self.push("", vec![word]);
            return Ok(());
        };
        let text = word.to_string_lossy();
        // What follows a flag of keys may be one.
        let is_secret = self.last_flag.as_deref() == Some("--api-key");
        let shown = if is_secret { "a word" } else { &text };
        if text.trim().is_empty() {
            let message =
                "MODEL is empty: name one, or leave the word out for the small model inside this program";
            return Err(self.error(ErrorKind::InvalidValue, message));
        }
        let after = self.last_flag.as_deref().map_or_else(String::new, |flag| format!(" after {flag}"));
        if self.has_positional {
            let repeatable = self.last_flag.as_deref().and_then(|flag| self.ours(flag));
            let remedy = match repeatable {
                Some(argument) if is_repeatable(argument) => {
                    format!(
                        "repeat the flag for a further value: {0} A {0} B",
                        self.last_flag.as_deref().unwrap_or_default()
                    )
                }
                _ => "MODEL is named already".to_owned(),
            };
            return Err(
                self.error(ErrorKind::UnknownArgument, &format!("{shown}{after} is one too many: {remedy}"))
            );
        }
        if looks_like_a_value(&text) && !Path::new(&word).is_dir() {
            let message =
                format!("{shown}{after} is no MODEL: it looks like the value of a flag that takes none");
            return Err(self.error(ErrorKind::UnknownArgument, &message));
        }
        self.has_positional = true;
        self.push(positional.get_id().as_str(), vec![word]);
        Ok(())
    }

    /// Flags of a file, except those that were typed.
    fn config_file(&mut self, path: &Path) -> Result<(), Error> {
        let entries = config_file::read(path).map_err(|error| {
            self.error(ErrorKind::ValueValidation, &format!("--config {}: {error}", path.display()))
        })?;
        let mut typed: HashSet<String> = self.given.iter().map(|given| given.id.clone()).collect();
        typed.extend(self.foreign.iter().map(|given| given.found.flag.name.to_owned()));
        typed.extend(self.dotted.iter().map(|(name, _)| name.replace('-', "_")));
        for entry in entries {
            self.origin = Some(format!("{}, line {}", path.display(), entry.line));
            let name = format!("--{}", entry.key.replace('_', "-"));
            let Some(id) = self.id_of(&name) else {
                return Err(self.unknown(&name));
            };
            let model = ["model", "model_flag"];
            let is_typed =
                typed.contains(&id) || (model.contains(&&*id) && model.iter().any(|id| typed.contains(*id)));
            if is_typed {
                continue;
            }
            let appends = self.ours(&name).is_some_and(is_repeatable);
            for value in entry.values(appends) {
                self.flag(&format!("{name}={value}"), &mut Vec::new().into_iter().peekable())?;
            }
        }
        self.origin = None;
        Ok(())
    }

    /// One id for a flag and its opposite.
    fn id_of(&self, name: &str) -> Option<String> {
        let positive = name.strip_prefix("--no-").map(|rest| format!("--{rest}"));
        let ours = self.ours(name).or_else(|| self.ours(positive.as_deref()?));
        let foreign = || foreign::find(name, self.groups).map(|found| found.flag.name.to_owned());
        ours.map(|it| it.get_id().as_str().to_owned()).or_else(foreign)
    }

    /// The value of a flag: attached, or the next word.
    fn value(
        &self,
        typed: &str,
        attached: Option<String>,
        words: &mut Words,
        allows_hyphen: bool,
    ) -> Result<String, Error> {
        let is_value = |word: &OsString| {
            word.to_str().is_some_and(|it| !is_flag(it) || (allows_hyphen && !it.starts_with("--")))
        };
        let value = attached.or_else(|| words.next_if(is_value)?.into_string().ok());
        value.ok_or_else(|| self.error(ErrorKind::InvalidValue, &format!("{typed} needs a value")))
    }

    fn push(&mut self, id: &str, words: Vec<OsString>) {
        self.given.push(Given { id: id.to_owned(), words });
    }

    fn notice(&mut self, text: &str) {
        let at = self.origin.as_ref().map_or_else(String::new, |origin| format!("{origin}: "));
        self.notices.push(format!("{at}{text}"));
    }

    fn unknown(&self, typed: &str) -> Error {
        let flags = self.command.get_arguments().filter_map(Arg::get_long);
        let wanted = typed.trim_start_matches('-');
        let distance = |name: &str| strsim::osa_distance(name, wanted);
        let near = flags
            .filter(|name| !NEVER_SUGGESTED.contains(name) && distance(name) <= 1 + wanted.len() / 8)
            .min_by_key(|name| distance(name));
        let hint = near.map_or_else(String::new, |name| format!("; is --{name} meant?"));
        let message =
            format!("{typed} is no flag of `{}`{hint}", self.command.get_bin_name().unwrap_or_default());
        self.error(ErrorKind::UnknownArgument, &message)
    }

    fn error(&self, kind: ErrorKind, message: &str) -> Error {
        let at = self.origin.as_ref().map_or_else(String::new, |origin| format!("{origin}: "));
        self.command.clone().error(kind, format!("{at}{message}"))
    }
}

fn is_switch(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::SetTrue)
}

fn is_repeatable(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Append)
}

/// `-x` and `--xyz`, but not `-1`, `-0.5` or `-`.
fn is_flag(word: &str) -> bool {
    word.strip_prefix('-').is_some_and(|rest| !rest.is_empty() && rest.parse::<f64>().is_err())
}

/// Name and attached value of a flag: `--some_flag=x` is `--some-flag` and `x`, `-O3` is `-O` and `3`.
fn split(word: &str) -> (String, Option<String>) {
    if let Some(level) =
        word.strip_prefix("-O").filter(|rest| !rest.is_empty() && !rest.starts_with(['.', '=']))
    {
        return ("-O".to_owned(), Some(level.to_owned()));
    }
    let (name, value) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (word, None),
    };
    // Keys behind a dot are spelled as they are.
    let (base, path) = name.split_at(name.find('.').unwrap_or(name.len()));
    (format!("{}{path}", base.replace('_', "-")), value)
}

/// Words that flags take and no model is called.
fn looks_like_a_value(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    ["true", "false", "none", "null", "auto"].contains(&lower.as_str())
        || word.parse::<f64>().is_ok()
        || word.starts_with(['{', '['])
}
