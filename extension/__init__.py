"""The tab: a page for each part of the loop, for the WebUI, Forge and on its own."""
