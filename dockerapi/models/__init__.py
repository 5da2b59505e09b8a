"""Request bodies, by noun.  Answers are ready-made JSON objects (`JSONObject`): nobody validates our own output."""
