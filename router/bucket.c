/* Buckets of candidates, one per expert, and the sort that orders a bucket.
 *
 * Sort: insertion sort of runs of 8, then bottom-up merging between items and spare. O(n log n) in
 * the worst case, no recursion, no allocation; items are distinct, so stability does not matter.
 * Where only the first few are wanted, quickselect (median of three) parts them off before: O(n) on
 * average, so that an expert wanted by all sorts no more than it can serve. */
#include "router/router_internal.h"

#define RUN 8

void gln_buckets_place(gln_buckets_t *buckets, int blocks_count, int experts)
{
    int32_t place = 0;
    for (int e = 0; e < experts; e++) {
        buckets->offset[e] = place;
        for (int b = 0; b < blocks_count; b++) {
            int32_t count = buckets->place[(int64_t)b * experts + e];
            buckets->place[(int64_t)b * experts + e] = place;
            place += count;
        }
    }
    buckets->offset[experts] = place;
}

static void insertion_sort(gln_item_t *items, int64_t count)
{
    for (int64_t i = 1; i < count; i++) {
        gln_item_t item = items[i];
        int64_t j = i;
        for (; j > 0 && items[j - 1] > item; j--)
            items[j] = items[j - 1];
        items[j] = item;
    }
}

static void merge(const gln_item_t *left, int64_t left_count, const gln_item_t *right,
                  int64_t right_count, gln_item_t *to)
{
    const gln_item_t *left_end = left + left_count, *right_end = right + right_count;
    while (left < left_end && right < right_end) {
        int take_right = *right < *left;
        *to++ = take_right ? *right : *left;
        right += take_right;
        left += 1 - take_right;
    }
    if (left < left_end) memcpy(to, left, (size_t)(left_end - left) * sizeof *to);
    if (right < right_end) memcpy(to, right, (size_t)(right_end - right) * sizeof *to);
}

void gln_items_sort(gln_item_t *items, gln_item_t *spare, int64_t count)
{
    for (int64_t i = 0; i < count; i += RUN)
        insertion_sort(items + i, count - i < RUN ? count - i : RUN);
    gln_item_t *from = items, *to = spare;
    for (int64_t run = RUN; run < count; run *= 2) {
        for (int64_t i = 0; i < count; i += 2 * run) {
            int64_t left = count - i < run ? count - i : run;
            int64_t right = count - i - left < run ? count - i - left : run;
            merge(from + i, left, from + i + left, right, to + i);
        }
        gln_item_t *swap = from;
        from = to;
        to = swap;
    }
    if (from != items && count > 0) memcpy(items, from, (size_t)count * sizeof *items);
}

static gln_item_t median(gln_item_t a, gln_item_t b, gln_item_t c)
{
    if (a > b) return b > c ? b : (a > c ? c : a);
    return a > c ? a : (b > c ? c : b);
}

/* Bring the `kept` smallest of the items to the front, in any order. */
static void select_smallest(gln_item_t *items, int64_t count, int64_t kept)
{
    int64_t low = 0, high = count; /* the border lies in [low, high] */
    while (high - low > 1 && kept > low && kept < high) {
        gln_item_t pivot = median(items[low], items[low + (high - low) / 2], items[high - 1]);
        int64_t i = low, j = high - 1;
        while (i <= j) {
            while (items[i] < pivot)
                i++;
            while (items[j] > pivot)
                j--;
            if (i > j) break;
            gln_item_t item = items[i];
            items[i++] = items[j];
            items[j--] = item;
        }
        /* [low, j] <= pivot, [i, high) >= pivot, at most the pivot itself between them */
        if (kept <= j + 1)
            high = j + 1;
        else if (kept >= i)
            low = i;
        else
            return;
    }
}

void gln_items_sort_first(gln_item_t *items, gln_item_t *spare, int64_t count, int64_t kept)
{
    if (kept < count) select_smallest(items, count, kept);
    gln_items_sort(items, spare, kept < count ? kept : count);
}
