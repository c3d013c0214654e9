"""The lab's page: watch runs, read how their messages change, talk to the decoder, compare, look words up."""
