"""BullMQ on Redis: keys, codec, scripts, connections, the embedded server. The only room that imports redis."""
