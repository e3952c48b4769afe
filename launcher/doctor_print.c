/* Lists of findings: growing, printing, reading back. Lines of text are merged by comparing all
 * pairs: some dozens of findings a host. */
#include "launcher/doctor.h"

#include "base/log.h"
#include "launcher/figures.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const levels[] = {"ok", "warning", "error"};

void gln_findings_append(gln_findings_t *findings, const gln_finding_t *finding)
{
    gln_finding_t *items = realloc(findings->items, (size_t)(findings->count + 1) * sizeof *items);
    if (!items) return;
    findings->items = items;
    items[findings->count++] = *finding;
}

void gln_findings_add(gln_findings_t *findings, const char *check, const char *host,
                      gln_finding_level_t level, const char *advice, const char *format, ...)
{
    gln_finding_t finding = {.level = (int)level};
    va_list args;
    va_start(args, format);
    vsnprintf(finding.found, sizeof finding.found, format, args);
    va_end(args);
    snprintf(finding.check, sizeof finding.check, "%s", check);
    snprintf(finding.host, sizeof finding.host, "%.63s", host);
    snprintf(finding.advice, sizeof finding.advice, "%s", advice ? advice : "");
    gln_findings_append(findings, &finding);
}

void gln_findings_close(gln_findings_t *findings)
{
    free(findings->items);
    *findings = (gln_findings_t){0};
}

int gln_findings_count(const gln_findings_t *findings, gln_finding_level_t level)
{
    int count = 0;
    for (int i = 0; i < findings->count; i++)
        count += findings->items[i].level == (int)level;
    return count;
}

static gln_status_t print_json(const gln_findings_t *findings)
{
    for (int i = 0; i < findings->count; i++) {
        const gln_finding_t *f = &findings->items[i];
        json_t *object = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "event", "finding", "check",
                                   f->check, "host", f->host, "level", levels[f->level], "found",
                                   f->found, "advice", f->advice);
        gln_status_t status = gln_figures_print(object, stdout, "standard output");
        if (status != GLN_OK) return status;
    }
    json_t *end = json_pack("{s:s, s:i, s:i, s:i}", "event", "end", "ok",
                            gln_findings_count(findings, GLN_FINDING_OK), "warnings",
                            gln_findings_count(findings, GLN_FINDING_WARNING), "errors",
                            gln_findings_count(findings, GLN_FINDING_ERROR));
    return gln_figures_print(end, stdout, "standard output");
}

static bool same(const gln_finding_t *a, const gln_finding_t *b)
{
    return a->level == b->level && !strcmp(a->check, b->check) && !strcmp(a->found, b->found) &&
           !strcmp(a->advice, b->advice);
}

/* The hosts with this finding, "" if it is of all; false: an earlier line has named it. */
static bool name_hosts(const gln_findings_t *findings, int at, char *out, size_t size)
{
    int more = 0;
    out[0] = 0;
    for (int i = 0; i < at; i++)
        if (same(&findings->items[i], &findings->items[at])) return false;
    for (int i = at; i < findings->count; i++) {
        const gln_finding_t *f = &findings->items[i];
        size_t used = strlen(out);
        if (!same(f, &findings->items[at]) || !f->host[0]) continue;
        if (used + strlen(f->host) + 24 < size)
            snprintf(out + used, size - used, "%s%s", used ? ", " : "", f->host);
        else
            more++;
    }
    size_t used = strlen(out);
    if (more) snprintf(out + used, size - used, " and %d more", more);
    return true;
}

gln_status_t gln_findings_print(const gln_findings_t *findings, bool json)
{
    char hosts[160];
    if (json) return print_json(findings);
    for (int i = 0; i < findings->count; i++) {
        const gln_finding_t *f = &findings->items[i];
        if (!name_hosts(findings, i, hosts, sizeof hosts)) continue;
        printf("%-8s %-12s %s%s%s\n", levels[f->level], f->check, hosts, hosts[0] ? ": " : "",
               f->found);
        if (f->advice[0]) printf("%21s -> %s\n", "", f->advice);
    }
    printf("\n%d ok, %d warning%s, %d error%s\n", gln_findings_count(findings, GLN_FINDING_OK),
           gln_findings_count(findings, GLN_FINDING_WARNING),
           gln_findings_count(findings, GLN_FINDING_WARNING) == 1 ? "" : "s",
           gln_findings_count(findings, GLN_FINDING_ERROR),
           gln_findings_count(findings, GLN_FINDING_ERROR) == 1 ? "" : "s");
    return GLN_OK;
}

/* One line. @return 1: the end; 0 otherwise. */
static int parse_line(const char *line, size_t length, gln_findings_t *out)
{
    const char *event, *check, *host, *level, *found, *advice;
    int end = 0;
    json_t *object = json_loadb(line, length, 0, NULL);
    if (json_unpack(object, "{s:s}", "event", &event) == 0 && !strcmp(event, "end")) end = 1;
    if (json_unpack(object, "{s:s, s:s, s:s, s:s, s:s}", "check", &check, "host", &host, "level",
                    &level, "found", &found, "advice", &advice) == 0) {
        int number = GLN_FINDING_ERROR;
        while (number > 0 && strcmp(levels[number], level))
            number--;
        gln_findings_add(out, check, host, (gln_finding_level_t)number, advice, "%s", found);
    }
    json_decref(object);
    return end;
}

bool gln_findings_parse(const char *lines, gln_findings_t *out)
{
    int ended = 0;
    while (*lines) {
        size_t length = strcspn(lines, "\n");
        ended = ended | parse_line(lines, length, out);
        lines += length + (lines[length] == '\n');
    }
    return ended;
}
