/* Parts of launch and doctor that need no job: hosts files, commands, tournaments, findings. */
#include "base/log.h"
#include "launcher/doctor.h"
#include "launcher/starter.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static gln_hosts_t hosts;

static gln_status_t read_text(const char *text, int slots_each)
{
    char path[] = "/tmp/gln-hosts-XXXXXX";
    int file = mkstemp(path);
    cr_assert(write(file, text, strlen(text)) == (ssize_t)strlen(text));
    close(file);
    gln_status_t status = gln_hosts_read(path, slots_each, &hosts);
    unlink(path);
    return status;
}

Test(launch, hosts_files)
{
    cr_assert_eq(
        read_text("# two\nlocalhost slots=2\n\n\tother.example slots=3 max_slots=4 # x\n", 0),
        GLN_OK);
    cr_assert_eq(hosts.count, 2);
    cr_assert_eq(gln_hosts_slots(&hosts), 5);
    cr_assert(hosts.as_written && hosts.items[0].here && !hosts.items[1].here);
    gln_hosts_close(&hosts);
    cr_assert_eq(read_text("a\nb\na\n", 0), GLN_OK); /* one rank for each time */
    cr_assert_eq(hosts.count, 2);
    cr_assert_eq(hosts.items[0].slots, 2);
    cr_assert_not(hosts.as_written);
    gln_hosts_close(&hosts);
    cr_assert_eq(read_text("a slots=9\nb\n", 2), GLN_OK);
    cr_assert_eq(gln_hosts_slots(&hosts), 4);
    gln_hosts_close(&hosts);
    const char *bad[] = {"",
                         "#\n",
                         "a slots=0\n",
                         "a slots=x\n",
                         "a 4\n",
                         "-oProxyCommand=x\n",
                         "a slots=2x\n",
                         "a cores=2\n",
                         "a;b\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_assert_eq(read_text(bad[i], 0), GLN_ERR_CONFIG, "\"%s\"", bad[i]);
    cr_assert_eq(gln_hosts_read("/nowhere/hosts", 0, &hosts), GLN_ERR_CONFIG);
}

Test(launch, probe_asks_the_agent)
{
    cr_assert_eq(read_text("localhost\nfar.example\nother.example\n", 0), GLN_OK);
    char names[128];
    setenv("OMPI_MCA_plm_rsh_agent", "false", 1);
    cr_assert_eq(gln_hosts_probe(&hosts, 5000), 2); /* this one is not asked */
    gln_hosts_missing(&hosts, names, sizeof names);
    cr_assert_str_eq(names, "far.example, other.example");
    setenv("OMPI_MCA_plm_rsh_agent", "true : false", 1);
    cr_assert_eq(gln_hosts_probe(&hosts, 5000), 0); /* they are back */
    char agent[] = "/tmp/gln-agent-XXXXXX";
    FILE *script = fdopen(mkstemp(agent), "w");
    fputs("exec sleep 60\n", script);
    fclose(script);
    char words[64];
    snprintf(words, sizeof words, "sh %s", agent);
    setenv("OMPI_MCA_plm_rsh_agent", words, 1);
    cr_assert_eq(gln_hosts_probe(&hosts, 200), 2); /* they hang */
    unlink(agent);
    gln_hosts_close(&hosts);
}

static const char *command(const gln_starter_t *starter, int ranks)
{
    static char text[1024];
    gln_words_t words = {0};
    gln_starter_words(starter, hosts.count ? &hosts : NULL, ranks, &words);
    FILE *file = fmemopen(text, sizeof text, "w");
    gln_words_print(&words, false, file);
    fclose(file);
    gln_words_close(&words);
    return text;
}

Test(launch, commands)
{
    gln_starter_t starter = {
        .mpi_major = 4, .cores = 4, .slots = 4, .single_copy = true, .cpus_per_task = 1};
    cr_assert(strstr(command(&starter, 4), "-n 4 --bind-to none --map-by slot\n"));
    cr_assert(
        strstr(command(&starter, 5), "--map-by slot:OVERSUBSCRIBE --mca mpi_yield_when_idle 1\n"));
    starter.single_copy = false;
    cr_assert(strstr(command(&starter, 4), "--mca btl_vader_single_copy_mechanism none\n"));
    starter.mpi_major = 5;
    cr_assert(strstr(command(&starter, 4), "--mca smsc '^cma'\n") ||
              strstr(command(&starter, 4), "--mca smsc ^cma\n"));
    starter.single_copy = true;
    cr_assert_eq(read_text("a slots=2\nb slots=2\n", 0), GLN_OK);
    starter.hosts_path = "my hosts";
    cr_assert(strstr(command(&starter, 4), "--hostfile 'my hosts'\n"));
    hosts.items[0].answers = false;
    cr_assert(strstr(command(&starter, 2), "-n 2 --bind-to none --map-by slot --host b:2\n"));
    gln_hosts_close(&hosts);
    starter = (gln_starter_t){
        .in_slurm = true, .slots = 4, .slurm_tasks = 4, .cpus_per_task = 2, .single_copy = true};
    cr_assert(strstr(command(&starter, 4), "-n 4 --map-by slot:PE=2\n"));
    starter.kind = GLN_STARTER_SRUN;
    cr_assert_str_eq(command(&starter, 4), "srun --mpi=pmix --kill-on-bad-exit=0 --wait=60\n");
    cr_assert_str_eq(command(&starter, 2), "srun --mpi=pmix --kill-on-bad-exit=0 --wait=60 -n 2\n");
}

Test(launch, words_are_quoted)
{
    char text[64] = "";
    gln_words_t words = {0};
    gln_words_add(&words, "a b");
    gln_words_add(&words, NULL);
    gln_words_add(&words, "it's");
    gln_words_add(&words, "");
    FILE *file = fmemopen(text, sizeof text, "w");
    gln_words_print(&words, false, file);
    fclose(file);
    cr_assert_str_eq(text, "'a b' 'it'\\''s' ''\n");
    gln_words_close(&words);
}

/* Every two hosts meet exactly once, and nobody meets two at once. */
Test(doctor, tournament)
{
    for (int count = 1; count <= 17; count++) {
        int met[17][17] = {{0}}, rounds = count - 1 + count % 2;
        for (int round = 0; round < rounds; round++)
            for (int at = 0; at < count; at++) {
                int partner = gln_doctor_partner(count, round, at);
                if (partner < 0) continue;
                cr_assert(partner != at && partner < count);
                cr_assert_eq(gln_doctor_partner(count, round, partner), at);
                met[at][partner]++;
            }
        for (int a = 0; a < count; a++)
            for (int b = 0; b < count; b++)
                cr_assert_eq(met[a][b], a != b, "%d hosts: %d and %d", count, a, b);
    }
}

Test(doctor, slow_hosts)
{
    const double seconds[] = {10e-3, 11e-3, 40e-3, 9e-3}, near[] = {1e-4, 1e-4, 9e-4};
    cr_assert(gln_doctor_is_slow(seconds, 4, 2));
    cr_assert_not(gln_doctor_is_slow(seconds, 4, 1));
    cr_assert_not(gln_doctor_is_slow(seconds + 1, 2, 1)); /* of two, nobody can tell */
    cr_assert_not(gln_doctor_is_slow(near, 3, 2));        /* below 2 ms */
}

Test(doctor, findings_are_read_back)
{
    gln_findings_t f = {0};
    const char *lines =
        "{\"event\":\"finding\",\"check\":\"cores\",\"host\":\"a\",\"level\":\"warning\","
        "\"found\":\"100 % of it\",\"advice\":\"b\"}\nnoise\n";
    cr_assert_not(gln_findings_parse(lines, &f));
    cr_assert_eq(f.count, 1);
    cr_assert_eq(f.items[0].level, GLN_FINDING_WARNING);
    cr_assert_str_eq(f.items[0].found, "100 % of it");
    cr_assert_str_eq(f.items[0].advice, "b");
    cr_assert(gln_findings_parse("{\"event\":\"end\",\"ok\":1}\n", &f));
    cr_assert_eq(gln_findings_count(&f, GLN_FINDING_WARNING), 1);
    gln_findings_close(&f);
}
