/* A pair of sockets is the child's standard input and output: they have time limits, and writing
 * to one whose reader is gone raises no signal. */
#include "launcher/peer.h"

#include "base/log.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

struct gln_peer {
    const char *interpreter, *name;
    int socket;
    pid_t child;
    char line[GLN_PEER_LINE_MAX];
};

static void become(const char *interpreter, const char *program, int socket)
{
    if (dup2(socket, STDIN_FILENO) < 0 || dup2(socket, STDOUT_FILENO) < 0) _exit(127);
    execlp(interpreter, interpreter, "-c", program, (char *)NULL);
    _exit(127); /* the parent sees the end of the socket */
}

gln_status_t gln_peer_open(const char *interpreter, const char *name, const char *program,
                           gln_peer_t **out)
{
    int ends[2];
    gln_peer_t *peer = calloc(1, sizeof *peer);
    if (!peer) return gln_fail(GLN_ERR_MEMORY, "%s: out of memory", name);
    peer->interpreter = interpreter;
    peer->name = name;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
        free(peer);
        return gln_fail(GLN_ERR_IO, "%s: cannot make sockets: %s", name, strerror(errno));
    }
    peer->child = fork();
    if (peer->child == 0) become(interpreter, program, ends[1]);
    close(ends[1]);
    peer->socket = ends[0];
    if (peer->child < 0) {
        close(ends[0]);
        free(peer);
        return gln_fail(GLN_ERR_IO, "%s: cannot start a process: %s", name, strerror(errno));
    }
    *out = peer;
    return GLN_OK;
}

static gln_status_t gone(gln_peer_t *peer)
{
    int status;
    if (waitpid(peer->child, &status, 0) != peer->child) status = -1;
    peer->child = 0;
    if (status != -1 && WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return gln_fail(GLN_ERR_BACKEND,
                        "%s: cannot run %s: expected a Python interpreter, in PATH or given with "
                        "--python",
                        peer->name, peer->interpreter);
    return gln_fail(GLN_ERR_BACKEND, "%s: %s ended before it answered (see its messages above)",
                    peer->name, peer->interpreter);
}

/* One line into peer->line, its end cut off. Only one answer is ever under way. */
static gln_status_t receive(gln_peer_t *peer, int timeout_s)
{
    struct timeval limit = {.tv_sec = timeout_s};
    size_t held = 0;
    setsockopt(peer->socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    while (held == 0 || peer->line[held - 1] != '\n') {
        if (held == sizeof peer->line - 1)
            return gln_fail(GLN_ERR_BACKEND, "%s: its answer is longer than %zu bytes", peer->name,
                            held);
        ssize_t got = recv(peer->socket, peer->line + held, sizeof peer->line - 1 - held, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return gln_fail(GLN_ERR_BACKEND, "%s: no answer within %d s", peer->name, timeout_s);
        if (got <= 0) return gone(peer);
        held += (size_t)got;
    }
    peer->line[held - 1] = 0;
    return GLN_OK;
}

gln_status_t gln_peer_ask(gln_peer_t *peer, const char *request, int timeout_s, char *answer)
{
    size_t length = strlen(request), sent = 0;
    if (peer->child == 0)
        return gln_fail(GLN_ERR_BACKEND, "%s: %s has ended", peer->name, peer->interpreter);
    char line[GLN_PEER_LINE_MAX];
    if (length + 2 > sizeof line)
        return gln_fail(GLN_ERR_BACKEND, "%s: the request is longer than %zu bytes", peer->name,
                        sizeof line - 2);
    memcpy(line, request, length);
    line[length++] = '\n';
    while (sent < length) {
        ssize_t some = send(peer->socket, line + sent, length - sent, MSG_NOSIGNAL);
        if (some < 0 && errno == EINTR) continue;
        if (some < 0) break; /* it may have left word why */
        sent += (size_t)some;
    }
    gln_status_t status = receive(peer, timeout_s);
    if (status != GLN_OK) return status;
    if (!strncmp(peer->line, "ok", 2) && (peer->line[2] == ' ' || peer->line[2] == 0)) {
        strcpy(answer, peer->line + 2 + (peer->line[2] == ' '));
        return GLN_OK;
    }
    const char *problem = strncmp(peer->line, "error ", 6) ? peer->line : peer->line + 6;
    return gln_fail(GLN_ERR_BACKEND, "%s: %s", peer->name, problem);
}

void gln_peer_close(gln_peer_t *peer)
{
    if (!peer) return;
    close(peer->socket);
    if (peer->child > 0) { /* it holds nothing that needs care */
        kill(peer->child, SIGKILL);
        waitpid(peer->child, NULL, 0);
    }
    free(peer);
}
