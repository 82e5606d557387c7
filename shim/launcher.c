/* Starts the Python that lies beside this executable, by the loader and with the libraries that lie there too: so it
 * needs nothing of where it is, and may be moved (ratchet/install/bundle.py makes the folder).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char folder[PATH_MAX];

static int fail(const char *path, int fault)
{
    fprintf(stderr, "cannot run %s: %s\n", path, strerror(fault));
    return 1;
}

/* The folder of this executable, whatever links it was called by (proc_pid_exe(5)). */
static int find_folder(void)
{
    ssize_t length = readlink("/proc/self/exe", folder, sizeof folder - 1);
    if (length < 0)
        return errno;
    folder[length] = '\0';
    char *slash = strrchr(folder, '/');
    if (slash == NULL)
        return ENOENT;
    *slash = '\0';
    return 0;
}

int main(void)
{
    int fault = find_folder();
    if (fault != 0)
        return fail("/proc/self/exe", fault);
    enum { LONGEST = PATH_MAX + sizeof "/lib/ld.so" };
    char loader[LONGEST], libraries[LONGEST], python[LONGEST + 5], plugin[LONGEST];
    snprintf(loader, sizeof loader, "%s/lib/ld.so", folder);
    snprintf(libraries, sizeof libraries, "%s/lib", folder);
    snprintf(python, sizeof python, "%s/bin/python3", folder);
    snprintf(plugin, sizeof plugin, "%s/plugin.py", folder);
    /* -I: neither the caller's environment nor its folder decides what is imported. -S: nor does a site. -B: the folder
     * is what it was, whoever ran it. */
    execl(loader, loader, "--inhibit-cache", "--library-path", libraries, python, "-I", "-S", "-B", plugin, (char *)NULL);
    return fail(loader, errno);
}
