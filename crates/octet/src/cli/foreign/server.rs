//! Flags about HTTP and the API.

use super::Answer::{Ignored, Only, Refused};
use super::{ForeignFlag, switch, value};

const NO_TOOLS: &str = "tool calls are not supported yet: leave the flag out";
const NO_REASONING: &str =
    "reasoning is not told apart from the answer: leave the flag out and split at </think>";
const ONE_PROCESS: &str = "one process serves: run one server for each device, behind a router";
const NO_PYTHON: &str = "no Python is run";

/// All of them.
pub(super) const FLAGS: &[ForeignFlag] = &[
    switch("enable-auto-tool-choice", Refused(NO_TOOLS)),
    value("tool-call-parser", Refused(NO_TOOLS)),
    value("tool-parser-plugin", Refused(NO_TOOLS)),
    value("tool-server", Refused(NO_TOOLS)),
    switch("exclude-tools-when-tool-choice-none", Refused(NO_TOOLS)),
    value("reasoning-parser", Refused(NO_REASONING)),
    value("reasoning-parser-plugin", Refused(NO_REASONING)),
    switch("enable-reasoning", Refused(NO_REASONING)),
    value(
        "lora-modules",
        Refused("LoRA adapters are not supported: merge the adapter into its model and serve that"),
    ),
    value(
        "prompt-adapters",
        Refused("adapters are not supported: merge the adapter into its model and serve that"),
    ),
    value("api-server-count", Only(&["1"], ONE_PROCESS)).or(&["-asc"]),
    switch("headless", Refused(ONE_PROCESS)),
    switch("grpc", Refused("the API is HTTP")),
    value("middleware", Refused(NO_PYTHON)),
    switch("disable-fastapi-docs", Ignored("there are no such pages")),
    switch(
        "enable-offline-docs",
        Refused("there are no such pages; `octet serve --help` and README.md say it all"),
    ),
    switch("disable-frontend-multiprocessing", Ignored("server and engine are one process")),
    switch("disable-log-requests", Ignored("prompts are not logged unless --enable-log-requests says so")),
    switch("enable-log-outputs", Refused("outputs are not logged")),
    switch("enable-log-deltas", Ignored("outputs are not logged")),
    value("log-config-file", Refused("log lines go to standard error; OCTET_LOG chooses how many")),
    switch("log-error-stack", Ignored("errors name their causes; there are no Python stacks")),
    switch(
        "enable-per-request-metrics",
        Refused("answers carry no times; /metrics has them for all requests"),
    ),
    switch(
        "enable-tokenizer-info-endpoint",
        Refused("there is no /tokenizer_info; /tokenize and /detokenize are there"),
    ),
    switch(
        "tokens-only",
        Refused("there is no endpoint for tokens alone; completions take and return token ids"),
    ),
    switch("trust-request-mm-kwargs", Ignored("only text is taken")),
    switch("enable-flash-late-interaction", Ignored("nothing is pooled or scored")),
    value("fingerprint-mode", Refused("answers carry one system_fingerprint")),
    value("fingerprint-value", Refused("answers carry one system_fingerprint")),
    switch("return-sampling-mask", Refused("answers carry no sampling mask")),
];
