/* The command that starts a job: mpirun of Open MPI 4 or 5, or srun. Words that both versions
 * understand are used wherever there are such.
 *
 * Ranks are never bound by the starter: gleaner binds them itself (parallel.bind), knowing which
 * share a machine, and a starter that counts from core 0 on each virtual host would put them on one
 * core. */
#ifndef GLN_LAUNCHER_STARTER_H
#define GLN_LAUNCHER_STARTER_H

#include "launcher/hosts.h"
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Words of a command, ended by NULL. */
typedef struct gln_words {
    char **items;
    int count;
    bool failed; /* out of memory: some are missing */
} gln_words_t;

/** Append a copy; NULL is passed over. */
void gln_words_add(gln_words_t *words, const char *word);
void gln_words_close(gln_words_t *words); /* takes one that is zeroed */
/** On one line, quoted for a shell. @param environment  begin with `env` and those variables of
 * this process that steer MPI (OMPI_MCA_*, OMPI_ALLOW_*, PRTE_MCA_*, PMIX_MCA_*, UCX_*), if there
 * are any
 */
void gln_words_print(const gln_words_t *words, bool environment, FILE *file);

typedef enum gln_starter_kind { GLN_STARTER_MPIRUN, GLN_STARTER_SRUN } gln_starter_kind_t;

/* What starts jobs here, and what it has. */
typedef struct gln_starter {
    gln_starter_kind_t kind;
    int mpi_major;          /* of mpirun: 4, 5 */
    char version[64];       /* "4.1.4"; "" for srun */
    bool in_slurm;          /* the allocation says where ranks go */
    int cores;              /* that this process may use */
    int slots;              /* ranks that fit here, or in the allocation */
    int slurm_tasks;        /* SLURM_NTASKS; 0: not said */
    int cpus_per_task;      /* SLURM_CPUS_PER_TASK, at least 1 */
    bool single_copy;       /* the kernel lets ranks read each other's memory */
    const char *hosts_path; /* mpirun's hosts file; NULL: none */
} gln_starter_t;

/** @param name        "mpirun", "srun", or NULL: srun in a Slurm job, unless hosts are given
 *  @param hosts_path  --hosts, or NULL: mpirun's own default hosts file, if one is set
 *  @return GLN_OK; GLN_ERR_ARGUMENT: name, or srun without a job; GLN_ERR_BACKEND: no mpirun, or
 * not Open MPI's. */
gln_status_t gln_starter_look(const char *name, const char *hosts_path, gln_starter_t *out);

/** Whether a process may read the memory of a sibling here, as ranks do with large messages. Tries
 * it. */
bool gln_starter_single_copy(void);

/** The command up to the program's own words.
 *  @param hosts  those that answer are used; NULL: none given
 *  @param ranks  of the job
 *  @param out    receives the words; to be closed
 *  @return whether ranks share cores (then they yield while they wait). */
bool gln_starter_words(const gln_starter_t *starter, const gln_hosts_t *hosts, int ranks,
                       gln_words_t *out);

/** Path of this program. @return GLN_OK; GLN_ERR_IO. */
gln_status_t gln_starter_program(char *path, size_t size);

#ifdef __cplusplus
}
#endif
#endif
