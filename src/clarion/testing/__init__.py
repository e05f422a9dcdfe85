"""What tests of Clarion, and of backends that others write, are made with. Needs pytest; nothing else imports it."""
