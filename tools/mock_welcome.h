/* mock_welcome.h - the mock engine's wrong answers to HELLO. */
#ifndef LLM_TOOLS_MOCK_WELCOME_H
#define LLM_TOOLS_MOCK_WELCOME_H

/* One WELCOME; how: an argument of --handshake (llm_mock_engine.c). */
void mock_welcome_send(int fd, const char *how);

#endif
