//! Contract that the server codes against (this comment is replaced by the implementation, which keeps these names):
//!
//! ```text
//! Tokenizer::load(folder: &Path) -> Result<Tokenizer, TextError>
//!   .encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError>
//!   .decode(&self, tokens: &[u32], skip_special_tokens: bool) -> Result<String, TextError>
//!   .token_text(&self, id: u32) -> Option<String>      // the vocabulary's own string, for token_strs
//!   .token_bytes(&self, id: u32) -> Vec<u8>            // the bytes that it stands for, for chat logprobs
//!   .vocabulary_size(&self) -> usize                   // highest id + 1
//!   .bos(&self) / .eos(&self) -> Option<&SpecialToken { id: u32, text: String }>
//!   .chat_template(&self) -> Option<&str>              // the template's source
//!   .check_vocabulary(&self, embedding_rows: usize) -> Result<(), TextError>
//! StreamOptions { skip_special_tokens: bool, stop: Vec<String>, include_stop_str_in_output: bool }
//! TextStream::new(tokenizer: Arc<Tokenizer>, options: StreamOptions, prompt: &[u32])
//!   .push(&mut self, token: u32) -> Result<TextDelta { text: String, stopped_by: Option<String> }, TextError>
//!   .finish(&mut self) -> String                       // text that was held back for a possible stop string or character
//! ChatTemplate::compile(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<ChatTemplate, TextError>
//!   .render(&self, &ChatInput { messages: &[serde_json::Value], tools: Option<&[serde_json::Value]>,
//!       documents: Option<..>, add_generation_prompt: bool, continue_final_message: bool,
//!       kwargs: &serde_json::Map<String, Value> }) -> Result<String, TextError>
//!   .content_format(&self) -> ContentFormat::{String, OpenAi}   // detected; render() flattens parts for String
//! TextError::is_request_error(&self) -> bool           // 400 rather than 500
//! ```
